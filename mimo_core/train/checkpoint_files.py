"""Whether a checkpoint's files are whole, known without torch and without reading the weights."""

from __future__ import annotations

import json
import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any

from mimo_core.run_folder import TRACKER


def damage(checkpoint: Path) -> str | None:
    """What is wrong with the files of a ``torch_dist`` checkpoint; ``None`` where nothing is.

    Sizes are compared with what ``.metadata`` says of every tensor's place. Bytes that changed
    within a file are not seen.
    """
    try:
        json.loads((checkpoint / "metadata.json").read_text())
        with (checkpoint / ".metadata").open("rb") as file:
            storage = _Names(file).load().storage_data
        due: dict[str, int] = defaultdict(int)
        for place in storage.values():
            end = place.offset + place.length
            due[place.relative_path] = max(due[place.relative_path], end)
    except FileNotFoundError as missing:
        return f"{Path(missing.filename).name} is missing"
    except Exception as error:
        return f"its metadata cannot be read ({type(error).__name__}: {error})"
    for name, size in sorted(due.items()):
        path = checkpoint / name
        if not path.exists():
            return f"{name} is missing"
        if path.stat().st_size < size:
            return f"{name} is cut off: {path.stat().st_size} of {size} bytes"
    return None


def way_back(checkpoints: Path, iteration: int) -> str:
    """What to do where the checkpoint of ``iteration`` cannot be used."""
    earlier = [one for one in whole(checkpoints) if one < iteration]
    if not earlier:
        return "there is none before it to go back to; begin anew with another --run-dir"
    return (
        f"the one before it that is whole is of iteration {earlier[-1]}; to go on from there: "
        f"echo {earlier[-1]} > {checkpoints / TRACKER}"
    )


def whole(checkpoints: Path) -> list[int]:
    """Iterations of the checkpoints in a folder that nothing is wrong with, the newest last."""
    return sorted(
        int(path.name.removeprefix("iter_"))
        for path in checkpoints.glob("iter_*")
        if path.name.removeprefix("iter_").isdigit() and damage(path) is None
    )


class _Anything:
    """Stands for any class of the metadata; holds the attributes that were saved."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {})

    def __setitem__(self, _key: Any, _value: Any) -> None: ...

    def append(self, _value: Any) -> None: ...


class _Names(pickle.Unpickler):
    """Reads the metadata without importing what it names."""

    def find_class(self, _module: str, name: str) -> Any:
        return type(name, (_Anything,), {})
