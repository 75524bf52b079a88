"""SIGTERM to a rank: the run stops after the current iteration, saved, and ends well."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

AGAIN = 2.0
"""Seconds within which a further SIGTERM is the first once more: a cluster signals every process
of a job, launchers hand it on to their ranks, and ``timeout`` signals its command twice."""
_PATIENCE = 5.0
"""Seconds for all ranks to meet, once this one was told to stop."""

_ignoring = False


class Termination:
    """What SIGTERM does to this rank.

    Before the first iteration it ends the run, as there is nothing to save; from there on it is
    kept until all ranks together look at it after an iteration (``asked``). One more, later than
    :data:`AGAIN` seconds, ends the run at once. Python's own handlers wait for the main thread,
    which may be in a collective: the signal is read from the wakeup descriptor by a thread.
    """

    def __init__(self) -> None:
        """Listen. Called on the process's main thread, else SIGTERM does what it did."""
        self.asked = False
        """Whether this rank was told to stop."""
        self._since = 0.0
        self._started = False
        self._lock = threading.Lock()
        self._joined = threading.Event()
        self._leave: Callable[[], None]
        self._hurry: Callable[[], None]
        if threading.current_thread() is not threading.main_thread():
            return
        self._signals, wakeup = socket.socketpair()
        wakeup.setblocking(False)
        self._wakeup = wakeup
        signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, _noted)
        os.register_at_fork(after_in_child=_in_child)
        threading.Thread(target=self._listen, name="mimo termination", daemon=True).start()

    def join(self, *, leave: Callable[[], None], hurry: Callable[[], None]) -> None:
        """The ranks have met.

        Args:
            leave: Ends all ranks before the first iteration, well.
            hurry: Ends all ranks now, as a failure.
        """
        self._leave, self._hurry = leave, hurry
        self._joined.set()

    def begin(self) -> None:
        """An iteration begins. Does not return where SIGTERM came before the first: the run ends
        then, and no rank may get beyond that iteration."""
        with self._lock:
            self._started = self._started or not self.asked
        if not self._started:
            threading.Event().wait()

    def _listen(self) -> None:
        while numbers := self._signals.recv(64):
            if signal.SIGTERM in numbers:
                self._hear()

    def _hear(self) -> None:
        with self._lock:
            again, self.asked = self.asked, True
        if not again:
            self._since = time.monotonic()
            if not self._started:
                threading.Thread(target=self._leave_soon, daemon=True).start()
        elif time.monotonic() - self._since > AGAIN:
            if not self._joined.is_set():
                os._exit(1)
            self._hurry()

    def _leave_soon(self) -> None:
        if not self._joined.wait(_PATIENCE):
            os._exit(0)
        self._leave()


@contextmanager
def children_ignore() -> Iterator[None]:
    """Processes that are forked here ignore SIGTERM, which a cluster sends to every process of a
    job: the rank needs them until it ends, and then they end with it."""
    global _ignoring  # noqa: PLW0603
    _ignoring = True
    try:
        yield
    finally:
        _ignoring = False


def _noted(_number: int, _frame: object) -> None: ...


def _in_child() -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if _ignoring else signal.SIG_DFL)
