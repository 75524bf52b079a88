"""When the work of a rank was done, by the host's clock; see
:class:`~mimo_core.platforms.base.Stopwatch`."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

_TRIES = 10
"""Looks at a device's clock, of which the quickest counts."""


class HostStopwatch:
    """On a CPU, work is done when its call returns."""

    on_host = True
    error = 0.0

    def start(self) -> None: ...

    def mark(self) -> float:
        return time.perf_counter()

    def seconds(self, marks: Sequence[float]) -> list[float]:
        return list(marks)


class DeviceStopwatch:
    """CUDA events on the stream that computes; nothing waits for them before :meth:`seconds`.

    An event that the host waits for on an idle device happens between two times of the host: it
    relates the clocks, to half of what is between the two.
    """

    on_host = False

    def __init__(self) -> None:
        self.error = 0.0

    def start(self) -> None:
        self._stream = torch.cuda.current_stream()
        self._reference, self._at, self.error = self._look()

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(self._stream)
        return event

    def seconds(self, marks: Sequence[torch.cuda.Event]) -> list[float]:
        last, at, error = self._look()
        # The device's clock runs a little faster or slower than the host's.
        drift = abs(self._since(last) - at)
        self.error = max(self.error, error + drift)
        return [self._since(mark) for mark in marks]

    def _look(self) -> tuple[torch.cuda.Event, float, float]:
        """An event, when it happened, and by how much that may be wrong."""
        torch.cuda.synchronize()
        looks = []
        for _ in range(_TRIES):
            before = time.perf_counter()
            event = self.mark()
            event.synchronize()
            after = time.perf_counter()
            looks.append((event, (before + after) / 2, (after - before) / 2))
        return min(looks, key=lambda look: look[2])

    def _since(self, event: torch.cuda.Event) -> float:
        milliseconds: float = self._reference.elapsed_time(event)
        return self._at + milliseconds / 1e3
