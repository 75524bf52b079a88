"""What surrounds the runs of a series: their folders, and signals that end it."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_AGAIN = 2.0
"""Seconds within which a further signal is the first once more: ``timeout`` signals twice."""
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """A signal ended the series."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.name = signal.Signals(number).name
        self.exit_code = 128 + number


@contextmanager
def stoppable() -> Iterator[None]:
    """Signals that end this process raise :class:`Stopped` in here, so that what is under way is
    cleaned up. Called on the main thread; a signal that is ignored (``nohup``) still is."""
    latest: float | None = None

    def hear(number: int, _frame: object) -> None:
        nonlocal latest
        now = time.monotonic()
        if latest is None or now - latest > _AGAIN:
            latest = now
            raise Stopped(number)

    kept: dict[signal.Signals, Any] = {}
    for number in _STOPPING:
        if signal.getsignal(number) != signal.SIG_IGN:
            kept[number] = signal.signal(number, hear)
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


class Folders:
    """Of the runs of a series: those that are not wanted later are removed."""

    def __init__(self, keep: Path | None) -> None:
        """
        Args:
            keep: Where all are kept; by default those alone that are told to be, in a temporary
                folder.
        """
        self._keeps = keep is not None
        self._base = keep or Path(tempfile.mkdtemp(prefix="mimo-benchmarks-"))
        self._taken: set[str] = set()

    def __enter__(self) -> Folders:
        return self

    def __exit__(self, *_error: object) -> None:
        if not self._keeps:
            with suppress(OSError):
                self._base.rmdir()  # Unless it holds a run.

    def new(self, name: str) -> Path:
        """A folder that no other run of the series has; not made yet."""
        number = 1
        while f"{name}-{number}" in self._taken:
            number += 1
        self._taken.add(f"{name}-{number}")
        return self._base / f"{name}-{number}"

    def done(self, folder: Path, *, failed: bool) -> str | None:
        """A run has ended, or was ended; tells where its folder is, if it is kept."""
        if not self._keeps and not failed:
            shutil.rmtree(folder, ignore_errors=True)
        return str(folder.absolute()) if folder.exists() else None
