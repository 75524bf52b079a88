"""A failure as every rank, every node and the launcher tell it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import attrs

_LINES = 15
"""Last lines of a log that are shown."""
_CRASH = "Fatal Python error: "
"""Begins what faulthandler writes of a crash: where it was comes first there."""
PART = "====="
"""Begins the first line of a run, or of its going on, in a log."""


@attrs.frozen(kw_only=True)
class Failure:
    """Why a run ends: what happened first, and to which rank."""

    rank: int
    label: str
    """The rank with its place, such as ``rank 3 (vision, dp 1)``."""
    message: str
    log: str | None
    """The rank's log; ``None`` where it had none yet."""
    expected: bool = False
    """A mistake that the message tells in full; otherwise the log's last lines are shown too."""
    silent: bool = False
    """The process ended without saying why."""
    screen: int = 0
    """The screen that the rank writes to (:attr:`mimo_core.rank.Rank.screen`)."""
    code: int = 1
    """Exit code of the ranks' processes; 0 where the run only was told to stop."""
    time: float = attrs.field(factory=time.time)
    """Seconds of the epoch."""

    def said(self) -> str:
        """What the rank did: ``failed: …``."""
        return self.message if self.silent or not self.code else f"failed: {self.message}"

    def text(self) -> str:
        """What a person reads: the cause, the last lines of the rank's log, and where that is."""
        told = [f"{self.label} {self.said()}"]
        log = None if self.log is None else Path(self.log)
        if log is not None and log.exists():
            if not self.expected:
                told += ["", *(f"  | {line}" for line in _last_lines(log))]
            told += ["", f"its log: {log}"]
        return "\n".join(told)

    def to_json(self) -> str:
        return json.dumps(attrs.asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Failure:
        return cls(**json.loads(text))


def _last_lines(log: Path) -> list[str]:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 65536))
        lines = file.read().decode(errors="replace").splitlines()
    starts = [index for index, line in enumerate(lines) if line.startswith(PART)]
    lines = lines[starts[-1] :] if starts else lines
    crashes = [index for index, line in enumerate(lines) if line.startswith(_CRASH)]
    return lines[crashes[-1] :][:_LINES] if crashes else lines[-_LINES:]
