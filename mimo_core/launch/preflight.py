"""What a run needs of the machine it starts on, looked at before a rank exists."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from multiprocessing import process, util
from pathlib import Path

from mimo_core.errors import MimoError, Problem

SHARED_MEMORY = Path("/dev/shm")
_LEAST_FILES = 256
"""Open files of a process of a small run, twice: about 60 of torch and the log, 10 of each
data worker, and those of checkpoints."""
_FILES = 1024
"""Open files that a process may have, where the system lets it."""
_LEAST_SHARED = 1 << 20
"""Bytes of shared memory: semaphores and batches of data workers."""
_SOCKET_PATH = 107
"""Bytes of the path of a socket (Linux)."""
_SOCKET_NAME = "/pymp-12345678/listener-12345678"
"""What multiprocessing adds to the temporary folder."""
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


def check_arguments(arguments: Sequence[str]) -> None:
    """Whether a command line is text.

    Raises:
        MimoError: an argument has bytes that the locale's encoding cannot read.
    """
    encoding = sys.getfilesystemencoding()
    for words in arguments:
        try:
            words.encode()
        except UnicodeEncodeError:
            shown = words.encode("ascii", "backslashreplace").decode()
            hint = "" if encoding == "utf-8" else "; set LC_ALL=C.UTF-8, or PYTHONUTF8=1"
            raise MimoError(
                f"{shown}: not text in {encoding}, the encoding of file names here{hint}",
                code="command.not-text",
            ) from None


def check(world_size: int, *, local: bool) -> None:
    """Whether this machine can run ranks. Called before ranks start.

    Args:
        world_size: Ranks.
        local: All ranks are on this machine, and meet at its loopback.

    Raises:
        MimoError: says what is lacking and what to do, a line each.
    """
    wrong = [*_few_files(world_size), *_full_shared_memory(), *_long_temporary_folder()]
    if local:
        wrong += _no_loopback()
    if wrong:
        raise MimoError.of(wrong)


def _few_files(world_size: int) -> Iterable[Problem]:
    allow_files(_FILES + 2 * world_size)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < _LEAST_FILES:
        limit = f"{soft} open files" if soft == hard else f"{soft} of {hard} open files"
        yield Problem(
            f"a process may have {limit} here, and a rank needs {_LEAST_FILES}: ulimit -n {_FILES}",
            "environment.few-open-files",
            values={"limit": soft, "least": _LEAST_FILES},
        )


def allow_files(count: int) -> None:
    """Raise the limit of open files to ``count``, or as far as the system lets this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    due = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if 0 <= soft < due:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (due, hard))


def _full_shared_memory() -> Iterable[Problem]:
    if not SHARED_MEMORY.is_dir():
        return
    with suppress(OSError):
        free = shutil.disk_usage(SHARED_MEMORY).free
        if free < _LEAST_SHARED:
            yield Problem(
                f"{SHARED_MEMORY} is full ({free:,} bytes free), and ranks share memory there: "
                "remove what earlier programs left in it, or, in a container, --shm-size=16g",
                "environment.full-shared-memory",
                values={"folder": str(SHARED_MEMORY), "free_bytes": free},
            )


def _no_loopback() -> Iterable[Problem]:
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), 10.0),
        ):
            pass
    except OSError as error:
        yield Problem(
            f"ranks cannot reach each other at 127.0.0.1 ({error.strerror or error}): the loopback "
            "interface is down or blocked; ip link set lo up",
            "environment.no-loopback",
        )


def _has_long_name(folder: str) -> bool:
    return len(os.fsencode(folder)) + len(_SOCKET_NAME) > _SOCKET_PATH


def _long_temporary_folder() -> Iterable[Problem]:
    folder = tempfile.gettempdir()
    if _has_long_name(folder) and not any(os.access(one, os.W_OK) for one in _SHORT_FOLDERS):
        yield Problem(
            f"TMPDIR {folder} is too long for the path of a socket ({_SOCKET_PATH} bytes), and "
            f"none of {', '.join(_SHORT_FOLDERS)} can be written: set a shorter TMPDIR",
            "environment.long-temporary-folder",
            values={"folder": folder, "bytes": _SOCKET_PATH},
        )


def short_sockets() -> None:
    """Have multiprocessing put its sockets where their paths fit, whatever ``TMPDIR`` is.

    A socket's path has at most 107 bytes. CPython 3.12 puts sockets into the temporary folder
    however long its name is; 3.14 does as this function.
    """
    if not _has_long_name(tempfile.gettempdir()):
        return
    for base in _SHORT_FOLDERS:
        with suppress(OSError):
            place = tempfile.mkdtemp(prefix="pymp-", dir=base)
            util.Finalize(None, shutil.rmtree, (place, True), exitpriority=-100)
            process.current_process()._config["tempdir"] = place  # type: ignore[attr-defined]
            return


def full_places(*places: Path) -> list[Path]:
    """Those of the places, the temporary folder and shared memory whose file system is full.

    Called where a write failed for want of room and the error does not say where.
    """
    found: list[Path] = []
    for place in (*places, Path(tempfile.gettempdir()), SHARED_MEMORY):
        with suppress(OSError):
            there = next(one for one in (place, *place.absolute().parents) if one.exists())
            if shutil.disk_usage(there).free < _LEAST_SHARED and place not in found:
                found.append(place)
    return found
