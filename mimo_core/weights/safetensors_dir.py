"""A directory of safetensors files: names, types and shapes, known from the files' headers.

The headers are JSON. Nothing is unpickled, and no other kind of file is opened.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from mimo_core.errors import MimoError
from mimo_core.utils.regular_files import UnreadableFile, open_regular, parse_json, read_json

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_NOT_FOUND = "weights.not-found"
_MOST_HEADER = 100_000_000
"""Bytes of a header; safetensors itself reads no longer ones."""
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "I8": 1, "BOOL": 1}
_FORMATS = {"F64": "d", "F32": "f", "F16": "e", "I64": "q", "I32": "i"}
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


class UnreadableWeightsError(MimoError):
    """A directory from which no weights can be read; the message says why."""


@attrs.frozen(kw_only=True)
class Entry:
    """A tensor of a file."""

    file: Path
    dtype: str
    """In the words of safetensors: ``F32``, ``BF16``, …"""
    shape: tuple[int, ...]
    begin: int
    """Where its bytes are in the file."""
    end: int

    def values(self) -> tuple[float, ...]:
        """Its numbers, of a small tensor.

        Raises:
            UnreadableWeightsError: its type is none of numbers.
        """
        with self.file.open("rb") as file:
            file.seek(self.begin)
            data = file.read(self.end - self.begin)
        count = math.prod(self.shape)
        if self.dtype == "BF16":
            # The upper half of a float32.
            wide = b"".join(b"\0\0" + data[at : at + 2] for at in range(0, len(data), 2))
            return struct.unpack(f"<{count}f", wide)
        if self.dtype not in _FORMATS:
            message = f"{self.file}: cannot read numbers of type {self.dtype}"
            raise UnreadableWeightsError(
                message, code="weights.unknown-type", file=str(self.file), dtype=self.dtype
            )
        return struct.unpack(f"<{count}{_FORMATS[self.dtype]}", data)

    def equals(self, other: Entry) -> bool:
        """Whether another tensor has the same type, shape and bytes; both are read."""
        if (self.dtype, self.shape) != (other.dtype, other.shape):
            return False
        left, chunk = self.end - self.begin, 1 << 24
        with self.file.open("rb") as ours, other.file.open("rb") as theirs:
            ours.seek(self.begin)
            theirs.seek(other.begin)
            while left > 0:
                size = min(left, chunk)
                if ours.read(size) != theirs.read(size):
                    return False
                left -= size
        return True


def read_directory(path: Path) -> dict[str, Entry]:
    """The tensors of a directory by name, no weight read.

    Raises:
        UnreadableWeightsError: there is no such directory, it holds no safetensors file, or one
            is damaged.
    """
    if not path.is_dir():
        message = f"{path}: there is no such directory (from {Path.cwd()})"
        raise UnreadableWeightsError(message, code=_NOT_FOUND, directory=str(path))
    if (path / WHOLE).exists():
        return dict(_header(path / WHOLE))
    if (path / INDEX).exists():
        return _indexed(path)
    found = sorted(file.name for file in path.iterdir() if file.is_file())
    others = [name for name in found if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    why = (
        f"; {', '.join(others[:3])} would have to be unpickled, which may run code: it is not "
        "opened. Save the model again with transformers (save_pretrained writes safetensors)"
        if others
        else f"; it holds: {', '.join(found[:5]) or 'nothing'}"
    )
    message = f"{path} has neither {WHOLE} nor {INDEX}{why}"
    raise UnreadableWeightsError(message, code=_NOT_FOUND, directory=str(path), files=tuple(found))


def read_config(path: Path) -> dict[str, Any]:
    """The directory's ``config.json``; empty where it has none.

    Raises:
        UnreadableWeightsError: it holds no JSON object.
    """
    file = path / "config.json"
    if not file.exists():
        return {}
    try:
        config = read_json(file)
    except UnreadableFile as error:
        raise _unreadable(error.text, file) from error
    except ValueError as error:
        raise _damaged(f"{file} holds no JSON ({error})", file) from error
    if not isinstance(config, dict):
        raise _damaged(f"{file} holds {type(config).__name__}, not an object", file)
    return config


def _indexed(path: Path) -> dict[str, Entry]:
    """Of several files, by their index."""
    index = path / INDEX
    try:
        places = read_json(index)["weight_map"]
        wrong = [file for file in places.values() if Path(file).name != file]
    except UnreadableFile as error:
        raise _unreadable(error.text, index) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(f"{index} is no index of weights ({error!r})", index) from error
    if wrong:
        raise _damaged(f"{index} names {wrong[0]!r}, which is no file beside it", index)
    entries: dict[str, Entry] = {}
    for name in sorted(set(places.values())):
        if not (path / name).exists():
            raise _damaged(f"{path / name} is missing, which {INDEX} names", path / name)
        entries |= _header(path / name)
    absent = sorted(set(places) - set(entries))
    if absent:
        message = f"{index} names {_some(absent)}, but {places[absent[0]]} lacks it"
        raise _damaged(message, index)
    return entries


def _header(path: Path) -> Iterator[tuple[str, Entry]]:
    """Names of a file with what its header says of them."""
    try:
        descriptor = open_regular(path)
    except OSError as error:
        raise _unreadable(f"{path}: {error.strerror}", path) from error
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MOST_HEADER):
            raise _damaged(f"{path} is no safetensors file, or is cut off", path)
        text = file.read(length)
    try:
        told: dict[str, Any] = parse_json(text, finite=True)
        told.pop("__metadata__", None)
        entries = {
            name: Entry(
                file=path,
                dtype=str(said["dtype"]),
                shape=tuple(_size(side) for side in said["shape"]),
                begin=8 + length + _size(said["data_offsets"][0]),
                end=8 + length + _size(said["data_offsets"][1]),
            )
            for name, said in told.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise _damaged(f"{path} has a damaged header ({error!r})", path) from error
    for name, entry in entries.items():
        if entry.end > size:
            message = f"{path} is cut off: {name} ends at byte {entry.end} of {size}"
            raise _damaged(message, path)
        due = math.prod(entry.shape) * _BYTES.get(entry.dtype, 0)
        if due and entry.end - entry.begin != due:
            message = f"{path}: {name} has {entry.end - entry.begin} bytes instead of {due}"
            raise _damaged(message, path)
    covered = 8 + length
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != covered or entry.end < entry.begin:
            raise _damaged(
                f"{path} has a damaged header: {name} has bytes {entry.begin} to {entry.end}, and "
                f"those before it end at {covered}",
                path,
            )
        covered = entry.end
    if covered != size:
        raise _damaged(f"{path} has {size - covered} bytes behind its last tensor", path)
    yield from entries.items()


def _damaged(message: str, file: Path) -> UnreadableWeightsError:
    return UnreadableWeightsError(message, code="weights.damaged", file=str(file))


def _unreadable(message: str, file: Path) -> UnreadableWeightsError:
    return UnreadableWeightsError(message, code="weights.unreadable", file=str(file))


def _size(value: object) -> int:
    """A whole number that is not negative.

    Raises:
        ValueError: it is something else.
    """
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no size")
    return value


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
