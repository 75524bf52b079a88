"""Reading files that a user names: regular files of a bounded size, never a pipe or a device."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mimo_core.errors import MimoError

JSON_BYTES = 64 << 20
"""Bytes of a JSON file at most; the index of a model of 100,000 tensors has 10 million."""
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


class UnreadableFile(MimoError, OSError):
    """A file that cannot be read as one; an ``OSError`` too, with ``strerror``."""

    def __init__(self, path: Path | str, why: str, number: int) -> None:
        code = "environment.unreadable-file"
        MimoError.__init__(self, f"{path}: {why}", code=code, file=str(path), cause=why)
        self.errno, self.strerror, self.filename = number, why, str(path)

    def __str__(self) -> str:
        return MimoError.__str__(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.filename, self.strerror, self.errno)


def open_regular(path: Path | str) -> int:
    """A file descriptor of a regular file, to be closed by the caller. Never waits for a writer.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableFile: it is no regular file, or the system refuses it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # a ValueError for a zero byte in the name
        number = getattr(error, "errno", None) or errno.EINVAL
        why = getattr(error, "strerror", None) or str(error)
        if number == errno.ENXIO:
            why = "a socket or a device, not a file"
        raise UnreadableFile(path, why, number) from error
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise UnreadableFile(path, "Is a directory", errno.EISDIR)
    kind = _KINDS.get(stat.S_IFMT(mode), "something else")
    raise UnreadableFile(path, f"{kind}, not a file", errno.EINVAL)


def read_bytes(path: Path | str, limit: int) -> bytes:
    """A file's bytes.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableFile: as :func:`open_regular`; or it has more than ``limit`` bytes.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        try:
            large = os.fstat(file.fileno()).st_size > limit
            # In parts: a single read would reserve the memory of the limit first.
            content = bytearray()
            while not large and (part := file.read(1 << 20)):
                content += part
                large = len(content) > limit
        except OSError as error:
            why = error.strerror or str(error)
            raise UnreadableFile(path, why, error.errno or errno.EIO) from error
    if large:
        raise UnreadableFile(path, f"more than {limit:,} bytes", errno.EFBIG)
    return bytes(content)


def read_json(path: Path | str, limit: int = JSON_BYTES) -> Any:
    """The value of a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableFile: as :func:`read_bytes`.
        ValueError: it is not UTF-8, no JSON, nested too deeply, or has a key twice.
    """
    return parse_json(read_bytes(path, limit))


def parse_json(text: bytes | str, *, finite: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        text: In UTF-8.
        finite: Refuse NaN and infinities, which JSON does not have and Python reads.

    Raises:
        ValueError: as :func:`read_json`.
    """
    try:
        text = text if isinstance(text, str) else text.decode("utf-8-sig")
        constant = _refuse_constant if finite else None
        return json.loads(text, object_pairs_hook=_without_doubles, parse_constant=constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError as error:
        # Its text would show all bytes.
        raise ValueError(f"it is not UTF-8 text (byte {error.start + 1})") from None


def _without_doubles(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {key[:60]!r} is there twice")
        values[key] = value
    return values


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")
