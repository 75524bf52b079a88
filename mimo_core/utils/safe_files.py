"""Writes files of a run so that a link in a file's place never reaches what it names.

A name that is a link is replaced or refused; its target keeps its contents. New files get the mode
that the umask says.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Give a draft to write, which takes the place of ``path`` at the end.

    A reader sees the old file or the new one, and a link at ``path`` is replaced. If an error
    comes, ``path`` stays as it is.

    Args:
        path: The file to replace.
        sync: Whether the draft is written to the disk itself first.
    """
    draft = path.with_name(f".{path.stem}-{secrets.token_hex(4)}.new{path.suffix}")
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666))
    try:
        yield draft
        if sync:
            descriptor = os.open(draft, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        draft.replace(path)
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()


def replace_text(path: Path, text: str, *, sync: bool = False) -> None:
    """Write a whole file, see :func:`replacing`."""
    with replacing(path, sync=sync) as draft:
        draft.write_text(text, encoding="utf-8")


def open_own(path: Path, flags: int) -> int:
    """Open a file for writing, made if there is none, which is neither emptied nor reached by a
    link; gives its descriptor.

    Args:
        path: The file.
        flags: ``os.O_RDWR``, or ``os.O_WRONLY | os.O_APPEND``.

    Raises:
        OSError: it is a link (``ELOOP``), or no regular file.
    """
    number = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(f"{path} is no regular file")
    os.set_blocking(number, True)
    return number


def append_to(path: Path) -> IO[bytes]:
    """Open a log to append to. A link in its place is removed; its target stays as it is."""
    remove_link(path)
    return os.fdopen(open_own(path, os.O_WRONLY | os.O_APPEND), "ab")


def remove_link(path: Path) -> None:
    """Remove a link; what it names stays, and so does a path that is no link."""
    if path.is_symlink():
        path.unlink()


def usual_mode(folder: Path) -> int:
    """The mode that a new file in a folder gets by the umask and by the folder itself."""
    probe = folder / f".{secrets.token_hex(8)}"
    descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)
        probe.unlink()
