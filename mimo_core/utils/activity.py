"""What the main thread of this rank is doing, for its heartbeat."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import attrs

Phase = Literal["setup", "data", "forward-backward", "optimizer", "save", "evaluation"]
_FRAMES = 12
_LONGEST = 6000
"""Characters of a stack that is reported."""
_WAITS = (
    *(".wait(", "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast("),
    *("barrier(", "synchronize(", ".item()", ".cpu()", ".tolist()", "isend", "irecv"),
)
"""What the innermost line of Python has where the main thread waits for other ranks."""


@attrs.define
class Activity:
    """The main thread sets it; other threads read it."""

    phase: Phase = "setup"
    iteration: int = 0
    """The one that is under way; 0 before the first."""
    progress: int = 0
    """Increases with every step that the main thread makes."""

    def begin(self, iteration: int, phase: Phase) -> None:
        """An iteration begins."""
        self.iteration, self.phase = iteration, phase
        self.progress += 1

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """This phase while it is open, and then the one before."""
        before, self.phase = self.phase, phase
        self.progress += 1
        try:
            yield
        finally:
            self.phase = before
            self.progress += 1

    def describe(self) -> str:
        """``iteration 3, forward-backward``."""
        return f"iteration {self.iteration}, {self.phase}" if self.iteration else self.phase


CURRENT = Activity()
"""The activity of this process."""


def main_stack() -> tuple[str, bool]:
    """The Python stack of the main thread, and whether it waits for other ranks there."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    if frame is None:
        return "", False
    frames = traceback.extract_stack(frame)
    innermost = frames[-1]
    # Where devices compute a backward pass, their threads wait for other ranks.
    of_torch = any(part in innermost.filename for part in ("torch/distributed", "torch/autograd"))
    waits = of_torch or any(word in (innermost.line or "") for word in _WAITS)
    return "".join(traceback.format_list(frames[-_FRAMES:]))[-_LONGEST:], waits
