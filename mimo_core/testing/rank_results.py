"""What checks on ranks found, kept where a rank that dies cannot lose it; and their ends."""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimo_core.testing.checks import Check
from mimo_core.testing.outcome import Finding, Outcome, as_json, from_json, outcome_of

if TYPE_CHECKING:
    from mimo_core.testing.rank_harness import Rig

_STOPPED = 3
"""Exit status of a rank that waited in vain."""
_GRACE = 5.0
"""Seconds that a rank has to end a check after another rank failed in it."""


class Progress:
    """One rank's file of outcomes; the ranks read each other's."""

    def __init__(self, folder: Path, rank: int, world: int) -> None:
        self._folder = folder
        self._rank = rank
        self._others = [other for other in range(world) if other != rank]
        faulthandler.enable()

    def run(self, subject: str, check: Check, rig: Rig) -> None:
        """Run a check, on all ranks. One that does not end ends this process, its place told."""
        self._tell({"begun": [subject, check.name]})
        ended = threading.Event()
        watch = threading.Thread(
            target=self._watch,
            args=(subject, check, rig.bench.subject.patience, ended, threading.get_ident()),
            daemon=True,
        )
        watch.start()
        outcome = self._because(subject, check, outcome_of(lambda: check(rig)))
        self._end(subject, check, outcome)
        others = [self._wait(other, subject, check) for other in self._others]
        ended.set()
        watch.join()
        if any(other["waited"] for other in others):
            # It ends its process, and what both would do next needs both.
            os._exit(_STOPPED)

    def _because(self, subject: str, check: Check, outcome: Outcome) -> Outcome:
        """What a failure on this rank comes from: a rank that waited in vain has ended its process,
        which breaks the collectives that others wait in."""
        before = [self._ended(other, subject, check) for other in self._others]
        gone = [other for other in before if other is not None and other["waited"]]
        return from_json(gone[0]) if gone and outcome.status == "failed" else outcome

    def _wait(self, rank: int, subject: str, check: Check) -> dict[str, Any]:
        """How the check ended on another rank."""
        while (outcome := self._ended(rank, subject, check)) is None:
            time.sleep(0.01)
        return outcome

    def _watch(
        self, subject: str, check: Check, patience: float, ended: threading.Event, main: int
    ) -> None:
        """End this process where a check does not."""
        start = last = time.monotonic()
        waited = 0.0
        failed: float | None = None
        while not ended.wait(0.05):
            now = time.monotonic()
            # On a machine with more to do than cores, everything takes so many times longer.
            waited += (now - last) / max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
            last = now
            others = [self._ended(other, subject, check) for other in self._others]
            if failed is None and any(other and other["status"] == "failed" for other in others):
                failed = now
            waited_enough = failed is not None and now - failed > _GRACE
            if not waited_enough and waited < patience:
                continue
            if self._ended(self._rank, subject, check) is None:
                frames = traceback.extract_stack(sys._current_frames()[main])
                self._end(subject, check, _hang(self._rank, now - start, frames))
            os._exit(_STOPPED)

    def _end(self, subject: str, check: Check, outcome: Outcome) -> None:
        self._tell({"ended": [subject, check.name], "outcome": as_json(outcome)})

    def _tell(self, line: dict[str, Any]) -> None:
        with self._file(self._rank).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _ended(self, rank: int, subject: str, check: Check) -> dict[str, Any] | None:
        """How the check ended on a rank, if it did."""
        for line in read_lines(self._file(rank)):
            if line.get("ended") == [subject, check.name]:
                outcome: dict[str, Any] = line["outcome"]
                return outcome
        return None

    def _file(self, rank: int) -> Path:
        return self._folder / f"rank-{rank}.jsonl"


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a rank's file."""
    if not file.exists():
        return []
    *lines, _ = file.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines]


def _hang(rank: int, seconds: float, frames: traceback.StackSummary) -> Outcome:
    own = [frame for frame in frames if f"{os.sep}torch{os.sep}" not in frame.filename]
    where = own[-1] if own else frames[-1]
    return Outcome(
        status="failed",
        waited=True,
        findings=(
            Finding(
                said=f"rank {rank} waits for {seconds:.0f} s in {where.name} "
                f"({where.filename}:{where.lineno}): it does not end",
                fix="let all ranks of a group come to the same collectives, in the same order, "
                "whatever samples each of them has",
            ),
        ),
    )
