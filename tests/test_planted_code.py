"""Code in the files of a checkpoint or of a weights directory is never run."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from mimo_core.checkpoints import checkpoint_path
from mimo_core.errors import MimoError
from mimo_core.weights import restricted
from mimo_core.weights.checkpoint import Checkpoint

from .conftest import Run


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (os.mkdir, (str(self._marker),))


def zipped(trap: Trap) -> bytes:
    """The trap inside of the zip archive that ``torch.save`` writes."""
    stream = io.BytesIO()
    torch.save([trap], stream)
    return stream.getvalue()


def test_the_trap_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Trap(tmp_path / "bare")))
    torch.load(io.BytesIO(zipped(Trap(tmp_path / "zipped"))), weights_only=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare", "zipped"]


def planted(run: Run, folder: Path) -> Path:
    """A copy of a run's newest checkpoint, alone in a run folder."""
    shutil.copytree(run.folder, folder, ignore=shutil.ignore_patterns("logs", "tensorboard"))
    return checkpoint_path(folder / "checkpoints", run.summary["iterations"][-1]["iteration"])


def plant_item(checkpoint: Path, name: Callable[[str, object], bool], blob: bytes) -> Path:
    """Let the first item of the checkpoint for which ``name`` holds be ``blob``."""
    metadata: Metadata = pickle.loads((checkpoint / ".metadata").read_bytes())
    index = next(
        index
        for index in sorted(metadata.storage_data, key=lambda index: index.fqn)
        if name(index.fqn, metadata.state_dict_metadata[index.fqn])
    )
    info = metadata.storage_data[index]
    file = checkpoint / info.relative_path
    metadata.storage_data[index] = attrs_like(info, file.stat().st_size, len(blob))
    file.write_bytes(file.read_bytes() + blob)
    (checkpoint / ".metadata").write_bytes(pickle.dumps(metadata))
    return file


def attrs_like(info: Any, offset: int, length: int) -> Any:
    return type(info)(relative_path=info.relative_path, offset=offset, length=length)


def is_tensor(key: str, held: object) -> bool:
    return isinstance(held, TensorStorageMetadata)


def test_reading_weights_runs_nothing_and_names_the_file(tiny: Run, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    checkpoint = planted(tiny, tmp_path / "run")
    file = plant_item(checkpoint, is_tensor, zipped(Trap(marker)))
    opened = Checkpoint(checkpoint)
    with pytest.raises(MimoError, match=f"{file} names .*mkdir.*; nothing of it was run"):
        for key in opened.keys:
            opened.read(key, ())
    for damage in (b"", b"PK\x03\x04", pickle.dumps(Trap(marker)), os.urandom(100)):
        for path in (checkpoint / ".metadata",):
            path.write_bytes(damage)
            with pytest.raises(MimoError, match=str(path)):
                Checkpoint(checkpoint)
    assert not marker.exists()


@pytest.mark.parametrize(
    "module, name",
    [
        ("evil_module", "float32"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("torch", "serialization.os.system"),
        ("builtins", "eval"),
        ("torch.distributed.checkpoint.metadata", "torch.hub.load"),
    ],
)
def test_a_name_that_is_not_listed_is_neither_looked_up_nor_imported(
    module: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil_module.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / ".metadata"
    text = b"".join(
        b"\x8c" + len(part).to_bytes(1, "little") + part.encode() for part in (module, name)
    )
    path.write_bytes(b"\x80\x04" + text + b"\x93.")
    with path.open("rb") as file, pytest.raises(MimoError, match=r"\.metadata: names "):
        restricted.read_metadata(file)
    assert not (tmp_path / "ran").exists() and "evil_module" not in sys.modules


def test_metadata_names_only_files_of_its_folder(tiny: Run, tmp_path: Path) -> None:
    checkpoint = planted(tiny, tmp_path / "run")
    metadata = pickle.loads((checkpoint / ".metadata").read_bytes())
    index, info = next(iter(metadata.storage_data.items()))
    metadata.storage_data[index] = type(info)("../../../etc/passwd", info.offset, info.length)
    (checkpoint / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(MimoError, match="which is no file of the checkpoint"):
        Checkpoint(checkpoint)
