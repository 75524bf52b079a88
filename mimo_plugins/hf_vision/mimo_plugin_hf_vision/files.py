"""Where a model's files are on this machine: a directory, or a name on the Hugging Face hub."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from mimo_core import MimoError, wrong_types

SMALL = ("config.json", "preprocessor_config.json", "processor_config.json")
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_MOST_BYTES = 64 << 20
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def find_model(model: str, revision: str | None = None) -> Path:
    """A directory with the model's ``config.json``.

    Args:
        model: A directory, or a name on the hub.
        revision: Of the name: a commit, a branch or a tag; by default the hub's ``main``.

    Raises:
        MimoError: there is none, here or on the hub; or a directory is given a revision.
    """
    return _find(model, revision, SMALL, needed="config.json")


def find_weights(model: str, revision: str | None = None) -> Path:
    """A directory with the model's safetensors too; a local one as it is.

    Raises:
        MimoError: as :func:`find_model`.
    """
    return _find(model, revision, (*SMALL, *WEIGHTS), needed="*.safetensors")


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        MimoError: the file is absent or holds something else.
    """
    try:
        _check_regular(file)
        held = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MimoError(
            f"{file.parent} has no {file.name}; it is no model's directory",
            code="weights.not-found",
            directory=str(file.parent),
            file=file.name,
        ) from None
    except MimoError:
        raise
    except OSError as error:
        raise MimoError(
            f"{file} cannot be read: {error.strerror}", code="weights.unreadable", file=str(file)
        ) from error
    except RecursionError:
        raise MimoError(
            f"{file} holds no JSON that can be read: nested too deeply",
            code="weights.damaged",
            file=str(file),
        ) from None
    except ValueError as error:
        raise MimoError(
            f"{file} holds no JSON ({str(error)[-200:]})", code="weights.damaged", file=str(file)
        ) from error
    if not isinstance(held, dict):
        raise MimoError(
            f"{file} holds {type(held).__name__}, not an object",
            code="weights.damaged",
            file=str(file),
        )
    return held


def tensor_headers(file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a safetensors file; no weight is read.

    Raises:
        MimoError: the file cannot be read, or is damaged.
    """
    try:
        _check_regular(file, most_bytes=None)
        with safe_open(file, framework="numpy") as tensors:
            names = tensors.keys()
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in names}
    except OSError as error:
        raise MimoError(
            f"{file} cannot be read: {error.strerror or error}",
            code="weights.unreadable",
            file=str(file),
        ) from error
    except SafetensorError as error:
        raise MimoError(
            f"{file} is damaged, or no safetensors file ({error})",
            code="weights.damaged",
            file=str(file),
        ) from error


def _check_regular(file: Path, most_bytes: int | None = _MOST_BYTES) -> None:
    """Whether a file can be read in a bounded time: no pipe, no device, of a size of a config.

    Raises:
        MimoError: it cannot.
    """
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        raise MimoError(
            f"{file} is a folder, a pipe or a device, not a file",
            code="weights.unreadable",
            file=str(file),
        )
    if most_bytes is not None and found.st_size > most_bytes:
        raise MimoError(
            f"{file} has {found.st_size:,} bytes, too many for a model's config",
            code="weights.unreadable",
            file=str(file),
            size_bytes=found.st_size,
        )


def check_types(
    file: Path, said: Mapping[str, Any], due: Mapping[str, Any], at: str | None = None
) -> None:
    """Whether values of a file, or of its object ``at``, can be read.

    Raises:
        MimoError: says all that is wrong.
    """
    place = "" if at is None else f"{at}."
    values = {place + key: value for key, value in said.items()}
    kinds = {place + key: kind for key, kind in due.items()}
    if wrong := list(wrong_types(values, kinds)):
        raise MimoError(
            f"{file} {'; '.join(wrong)}",
            code="hf-vision.invalid-value",
            file=str(file),
            mistakes=tuple(wrong),
        )


@cache
def _find(model: str, revision: str | None, patterns: tuple[str, ...], needed: str) -> Path:
    path = Path(model).expanduser()
    if path.is_dir():
        if revision is not None:
            raise MimoError(
                f"hf-vision option revision={revision}: {model} is a directory, which has none; "
                "leave it out, or give the name on the hub",
                code="recipe.conflict",
                keys=("model", "revision"),
                directory=model,
                revision=revision,
            )
        return path
    if not _HUB_NAME.fullmatch(model) or model.startswith("."):
        raise MimoError(
            f"{model}: there is no such directory (from {Path.cwd()})",
            code="weights.not-found",
            directory=model,
        )
    from huggingface_hub import snapshot_download

    why = ""
    for cached in (True, False):
        try:
            folder = Path(
                snapshot_download(
                    model,
                    revision=revision,
                    allow_patterns=list(patterns),
                    local_files_only=cached,
                )
            )
        except (OSError, ValueError) as error:
            # OSError is the root of the hub's errors: no network, no such model, no permission.
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            continue
        if any(folder.glob(needed)):
            return folder
        why = f"it has no {needed}"
    at = f" at revision {revision}" if revision else ""
    flag = f"--revision {revision} " if revision else ""
    raise MimoError(
        f"{model!r}{at} is no directory (from {Path.cwd()}), is not in this machine's Hugging Face "
        f"cache, and cannot be downloaded: {why}. On a machine with network: hf download {model} "
        f"{flag}{' '.join(f'--include {pattern!r}' for pattern in (*SMALL, *WEIGHTS))} "
        "--local-dir DIR; copy DIR here and name it instead",
        code="hf-vision.not-downloaded",
        model=model,
        revision=revision,
        cause=why,
    )
