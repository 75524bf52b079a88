"""Image files as the file system tells them, many at a time: a network's file system is slow to
answer, but answers many at once."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from hashlib import blake2b
from itertools import batched, chain
from pathlib import Path

import attrs

from mimo_plugin_captions.errors import Broken

_TOGETHER = 64

_NO_SUCH_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


@attrs.frozen(kw_only=True)
class ImageFile:
    """What is known of an image without opening it."""

    missing: str = ""
    """Why there is no such file; empty where there is."""
    size: int = 0
    """Bytes."""
    fingerprint: int = 0
    """64 bits of path, size and time of change: another, where the file has changed."""


def regular_file(path: str | Path, root: Path) -> os.stat_result:
    """What the file system tells of an image below ``root``; a pipe or a device is never opened.

    Raises:
        Broken: there is no such file, or it can be no image.
        OSError: it cannot be told.
    """
    try:
        found = os.stat(path)
    except ValueError as error:  # a zero byte, or what no file system can name
        raise Broken(str(error)) from None
    except OSError as error:
        if error.errno in _NO_SUCH_FILE:
            raise Broken(f"there is no such file in {root}") from None
        raise
    if not stat.S_ISREG(found.st_mode):
        raise Broken(f"no file, but a folder, pipe or device in {root}")
    return found


def look_at(pool: Executor, root: Path, images: Sequence[str]) -> Iterator[ImageFile | OSError]:
    """Each of the images, paths relative to ``root``; an error where it cannot be told."""

    def some(images: tuple[str, ...]) -> list[ImageFile | OSError]:
        return [_look(root, folder, image) for image in images]

    folder = os.path.abspath(root)
    return chain.from_iterable(pool.map(some, batched(images, _TOGETHER)))


def _look(root: Path, folder: str, image: str) -> ImageFile | OSError:
    path = os.path.join(folder, image)
    try:
        found = regular_file(path, root)
    except Broken as error:
        return ImageFile(missing=str(error))
    except OSError as error:
        return error
    told = f"{path}\0{found.st_size}\0{found.st_mtime_ns}".encode(errors="surrogateescape")
    fingerprint = int.from_bytes(blake2b(told, digest_size=8).digest(), "little")
    return ImageFile(size=found.st_size, fingerprint=fingerprint)
