"""Where a model's files are on this machine: a directory, or a name on the Hugging Face hub."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from mimo_core import MimoError

SMALL = ("config.json", "preprocessor_config.json", "processor_config.json")
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def find_model(model: str) -> Path:
    """A directory with the model's ``config.json``.

    Raises:
        MimoError: there is none, here or on the hub.
    """
    return _find(model, SMALL, needed="config.json")


def find_weights(model: str) -> Path:
    """A directory with the model's safetensors too; a local one as it is.

    Raises:
        MimoError: there is none, here or on the hub.
    """
    return _find(model, (*SMALL, *WEIGHTS), needed="*.safetensors")


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        MimoError: the file is absent or holds something else.
    """
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MimoError(f"{file.parent} has no {file.name}; it is no model's directory") from None
    except ValueError as error:
        raise MimoError(f"{file} holds no JSON ({error})") from error
    if not isinstance(held, dict):
        raise MimoError(f"{file} holds {type(held).__name__}, not an object")
    return held


@cache
def _find(model: str, patterns: tuple[str, ...], needed: str) -> Path:
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if not _HUB_NAME.fullmatch(model) or model.startswith("."):
        raise MimoError(f"{model}: there is no such directory (from {Path.cwd()})")
    from huggingface_hub import snapshot_download

    why = ""
    for cached in (True, False):
        try:
            folder = Path(
                snapshot_download(model, allow_patterns=list(patterns), local_files_only=cached)
            )
        except (OSError, ValueError) as error:
            # OSError is the root of the hub's errors: no network, no such model, no permission.
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            continue
        if any(folder.glob(needed)):
            return folder
        why = f"it has no {needed}"
    raise MimoError(
        f"{model!r} is no directory (from {Path.cwd()}), is not in this machine's Hugging Face "
        f"cache, and cannot be downloaded: {why}. On a machine with network: hf download {model} "
        f"{' '.join(f'--include {pattern!r}' for pattern in (*SMALL, *WEIGHTS))} --local-dir DIR; "
        "copy DIR here and name it instead"
    )
