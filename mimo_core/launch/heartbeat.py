"""Heartbeats: how rank 0 notices a rank that is stopped or stuck, and the others that rank 0 is.

Every rank's thread sends ``{"beat": …}`` to the hub, which sends ``{"beat": {}}`` to every rank.
A rank whose process is stopped sends none. A rank whose main thread is stuck sends the same
progress again and again. :class:`Monitor` judges both, on the hub's thread.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from mimo_core.launch.protocol import Malformed, integer
from mimo_core.utils.activity import CURRENT, main_stack

_INTERVAL_SECONDS = 5.0
_BEATS = 6
"""Heartbeats of a timeout, at least."""
_LONGEST_TEXT = 8000
_MOST = 1 << 62


@attrs.frozen
class Limits:
    """When a rank counts as hung."""

    timeout: float
    """Seconds without a heartbeat."""
    stall: float
    """Seconds in which the main thread makes no progress while another rank waits."""

    @property
    def interval(self) -> float:
        """Seconds between heartbeats."""
        return min(_INTERVAL_SECONDS, self.timeout / _BEATS)


class Clock:
    """Seconds in which this process could run: pauses of its own, such as SIGSTOP to all ranks
    together or a machine that sleeps, do not count."""

    def __init__(self, most: float) -> None:
        """
        Args:
            most: Seconds between two calls that count at most.
        """
        self._most = most
        self._last = time.monotonic()
        self.now = 0.0

    def advance(self) -> float:
        """The time now."""
        now = time.monotonic()
        self.now += min(now - self._last, self._most)
        self._last = now
        return self.now


class _Main:
    """The main thread's progress, as its heartbeats report it. On the heartbeat's thread."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._progress = -1
        self._since = 0.0
        self._stack = ""
        self._moves = 0

    def beat(self, now: float) -> dict[str, Any]:
        """A heartbeat; with the stack if there has been no progress for long. Another stack than
        in the heartbeat before is progress too: importing and building make no other."""
        if CURRENT.progress != self._progress:
            self._progress, self._since, self._stack = CURRENT.progress, now, ""
        stack, waits = "", False
        if now - self._since > self._limits.stall / 2:
            stack, waits = main_stack()
            if self._stack not in ("", stack):
                self._moves += 1
                self._since = now
            self._stack = stack
        return {
            "pid": os.getpid(),
            "progress": max(0, self._progress) + self._moves,
            "at": CURRENT.describe(),
            "stack": stack,
            "waits": waits,
        }


class Heart:
    """The thread of a rank that sends its heartbeats and listens for those of the hub."""

    def __init__(
        self, limits: Limits, send: Callable[[dict[str, Any]], None], lost: Callable[[str], None]
    ) -> None:
        """
        Args:
            limits: When a rank counts as hung.
            send: Sends a message to the hub.
            lost: Called with a message where the hub, and so rank 0, is hung.
        """
        self._limits = limits
        self._send = send
        self._lost = lost
        self._stopped = threading.Event()
        self._heard = 0
        threading.Thread(target=self._run, name="mimo heartbeat", daemon=True).start()

    def hear(self) -> None:
        """A heartbeat of the hub has come."""
        self._heard += 1

    def stop(self) -> None:
        """Send no more, and expect none."""
        self._stopped.set()

    def _run(self) -> None:
        limits = self._limits
        clock = Clock(2 * limits.interval)
        main, heard, heard_at = _Main(limits), 0, 0.0
        while True:
            now = clock.advance()
            if self._heard != heard:
                heard, heard_at = self._heard, now
            elif heard and now - heard_at > limits.timeout:
                self._lost(silent_for(limits.timeout, "its watch of all ranks"))
                return
            self._send({"beat": main.beat(now)})
            if self._stopped.wait(limits.interval):
                return


def silent_for(seconds: float, at: str) -> str:
    """What is said of a process without heartbeats."""
    return (
        f"has sent no heartbeat for {seconds:g} s: its process is stopped (SIGSTOP, a debugger), "
        f"or its machine hangs; it was in {at}. A stopped process cannot report its Python stack"
    )


@attrs.define(kw_only=True)
class _Pulse:
    """What is known of a rank that has sent a heartbeat."""

    seen: float
    since: float
    progress: int = -1
    pid: int = 0
    at: str = ""
    stack: str = ""
    waits: bool = False
    work: int = 0


class Monitor:
    """The heartbeats of all ranks. On the hub's thread, but for its construction."""

    def __init__(self, limits: Limits, *, local: bool) -> None:
        """
        Args:
            limits: When a rank counts as hung.
            local: All ranks are on this machine, which shows whether a process works.
        """
        self.limits = limits
        self._local = local
        self._clock = Clock(max(2.0, 2 * limits.interval))
        self._pulses: dict[int, _Pulse] = {}
        self._next = 0.0

    def take(self, rank: int, message: Any) -> None:
        """A heartbeat of a rank.

        Raises:
            Malformed: it is none.
        """
        if not isinstance(message, dict):
            raise Malformed("no heartbeat")
        now = self._clock.now
        pulse = self._pulses.setdefault(rank, _Pulse(seen=now, since=now))
        progress = integer(message, "progress", 0, _MOST)
        if progress != pulse.progress:
            pulse.progress, pulse.since = progress, now
        pulse.seen, pulse.pid = now, integer(message, "pid", 1, _MOST)
        pulse.at, pulse.stack = (
            str(message.get(key, ""))[:_LONGEST_TEXT] for key in ("at", "stack")
        )
        pulse.waits = message.get("waits") is True

    def forget(self, rank: int) -> None:
        """A rank has ended."""
        self._pulses.pop(rank, None)

    def is_due(self) -> bool:
        """Whether heartbeats are to be sent to all ranks, once an interval."""
        if self._clock.advance() < self._next:
            return False
        self._next = self._clock.now + self.limits.interval
        return True

    def hung(self) -> tuple[int, str] | None:
        """A rank that is hung, and what is said of it."""
        now, limits = self._clock.now, self.limits
        for rank, pulse in sorted(self._pulses.items()):
            if now - pulse.seen > limits.timeout and not self._works(pulse, now):
                return rank, silent_for(limits.timeout, pulse.at)
        stuck = [
            (pulse.since, rank)
            for rank, pulse in self._pulses.items()
            if not pulse.waits and pulse.stack and now - pulse.since > limits.stall
        ]
        waiting = any(
            pulse.waits and now - pulse.since > limits.stall / 2 for pulse in self._pulses.values()
        )
        if not stuck or not waiting:
            return None
        rank = min(stuck)[1]
        pulse = self._pulses[rank]
        return rank, (
            f"has made no progress for {limits.stall:g} s while other ranks wait for it; it is in "
            f"{pulse.at}, and its Python stack is:\n{pulse.stack.rstrip()}"
        )

    def _works(self, pulse: _Pulse, now: float) -> bool:
        """Whether a process without heartbeats computes: a call of C that keeps Python's lock."""
        if not self._local or now - pulse.seen > max(self.limits.stall, self.limits.timeout):
            return False
        with suppress(OSError, ValueError, IndexError):
            stat = Path(f"/proc/{pulse.pid}/stat").read_text(encoding="utf-8", errors="replace")
            fields = stat.rpartition(")")[2].split()
            work = int(fields[11]) + int(fields[12])
            before, pulse.work = pulse.work, work
            return fields[0] not in "TtZX" and (before == 0 or work > before)
        return False
