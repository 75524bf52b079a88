"""Image files as the file system tells them, many at a time: a network's file system is slow to
answer, but answers many at once."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from itertools import batched, chain
from pathlib import Path

import attrs
import xxhash

from mimo_plugin_captions.errors import Broken

COMPARED = 16 << 10
"""Bytes at the beginning and at the end of an image file that its content is compared by."""

_TOGETHER = 64

_NO_SUCH_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


@attrs.frozen(kw_only=True)
class ImageFile:
    """What is known of an image without decoding it."""

    missing: str = ""
    """Why there is no such file; empty where there is."""
    content: int = 0
    """64-bit hash of the size, the first and the last :data:`COMPARED` bytes: the same for a copy
    elsewhere."""
    fingerprint: int = 0
    """64-bit hash of the path, the time of modification and ``content``."""


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
        content = _content(path, found.st_size)
    except Broken as error:
        return ImageFile(missing=str(error))
    except FileNotFoundError:
        return ImageFile(missing=f"there is no such file in {root}")
    except OSError as error:
        return error
    identity = f"{path}\0{found.st_mtime_ns}\0{content}".encode(errors="surrogateescape")
    return ImageFile(content=content, fingerprint=xxhash.xxh3_64_intdigest(identity))


def _content(path: str, size: int) -> int:
    """See :attr:`ImageFile.content`.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb", buffering=0) as file:
        content = xxhash.xxh3_64(b"%d\0" % size)
        content.update(file.read(COMPARED))
        if size > COMPARED:
            file.seek(max(COMPARED, size - COMPARED))
            content.update(file.read(COMPARED))
    return content.intdigest()
