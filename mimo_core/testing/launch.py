"""Starts the ranks on which checks run: once for all subjects of a file."""

from __future__ import annotations

import inspect
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from mimo_core.testing.checks import Check, checks_of
from mimo_core.testing.outcome import Finding, Outcome, from_json
from mimo_core.testing.progress import read_lines
from mimo_core.testing.ranks import RankFailure, run_ranks
from mimo_core.testing.subject import Subject

_TIMEOUT = 1800.0
"""Seconds that a launch may take in all; a check that does not end is ended long before."""


def on_ranks(subject: type[Subject], check: Check) -> Outcome:
    """What a check says on its ranks; the first rank that complains is heard."""
    outcomes = _launch(inspect.getfile(subject), check.ranks, _subjects(subject, check.ranks))
    return outcomes[subject.__qualname__, check.name]


def _subjects(subject: type[Subject], ranks: int) -> tuple[str, ...]:
    """All subjects of the file that have checks on so many ranks."""
    module = sys.modules[subject.__module__]
    found = [
        one.__qualname__
        for one in vars(module).values()
        if isinstance(one, type)
        and issubclass(one, Subject)
        and one.__module__ == module.__name__
        and one.__name__.startswith("Test")
        and hasattr(one, "plugin")
        and any(check.ranks == ranks for check in checks_of(one.kind))
    ]
    return tuple(found if subject.__qualname__ in found else [*found, subject.__qualname__])


@cache
def _launch(file: str, ranks: int, subjects: tuple[str, ...]) -> dict[tuple[str, str], Outcome]:
    return run_checks(file, ranks, subjects)


def run_checks(file: str, ranks: int, subjects: tuple[str, ...]) -> dict[tuple[str, str], Outcome]:
    """Run the checks of some classes of a file on so many ranks.

    Args:
        file: Is imported on the ranks.
        ranks: Processes; checks for so many run.
        subjects: Qualified names of the classes.

    Returns:
        By class and name of the check.
    """
    outcomes: dict[tuple[str, str], Outcome] = {}
    while True:
        before = len(outcomes)
        ended = _run_once(file, ranks, subjects, outcomes)
        if not ended:
            return outcomes
        if len(outcomes) == before:
            # Not even the first check began.
            return _Nothing(ended)


def _run_once(
    file: str, ranks: int, subjects: tuple[str, ...], outcomes: dict[tuple[str, str], Outcome]
) -> str:
    """Run what has no outcome yet; how the ranks failed, or nothing."""
    with tempfile.TemporaryDirectory() as folder:
        done = [list(pair) for pair in outcomes]
        ended = ""
        try:
            run_ranks(
                "mimo_core.testing.rig:run",
                ranks=ranks,
                timeout=_TIMEOUT,
                file=file,
                subjects=list(subjects),
                folder=folder,
                done=done,
            )
        except RankFailure as failure:
            ended = str(failure)
        for rank in range(ranks):
            lines = read_lines(Path(folder) / f"rank-{rank}.jsonl")
            _take(rank, lines, outcomes, ended)
    return ended


def _take(
    rank: int, lines: list[dict[str, Any]], outcomes: dict[tuple[str, str], Outcome], ended: str
) -> None:
    """One rank's outcomes: what failed first says most."""
    found = {tuple(line["ended"]): from_json(line["outcome"]) for line in lines if "ended" in line}
    for line in lines:
        pair: tuple[str, str] = tuple(line.get("begun", ()))  # type: ignore[assignment]
        if pair and pair not in found:
            killed = not ended.startswith(f"rank {rank} failed")
            found[pair] = Outcome(status="failed", findings=(_died(ended),), waited=killed)
    for pair, outcome in found.items():
        if pair not in outcomes or _worse(outcome, outcomes[pair]):
            outcomes[pair] = outcome


def _worse(outcome: Outcome, other: Outcome) -> bool:
    """A failure says more than a success, and a rank that was wrong more than one that waited."""
    if outcome.status == "failed" and other.status == "failed":
        return other.waited and not outcome.waited
    return outcome.status == "failed"


def _died(ended: str) -> Finding:
    return Finding(
        said=f"the process ended in this check: {ended}",
        fix="a hook, a forward or a backward must raise an error that says what is wrong; it must "
        "not end the process",
    )


class _Nothing(dict[tuple[str, str], Outcome]):
    """Every check failed alike: nothing could be begun."""

    def __init__(self, why: str) -> None:
        super().__init__()
        self._why = why

    def __missing__(self, _pair: tuple[str, str]) -> Outcome:
        finding = Finding(
            said=f"no check could begin on ranks: {self._why}",
            fix="mend the test's file, or the plugin's import",
        )
        return Outcome(status="failed", findings=(finding,))
