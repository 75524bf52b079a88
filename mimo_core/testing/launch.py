"""Starts the ranks on which checks run: once for all subjects of a file."""

from __future__ import annotations

import inspect
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from mimo_core.testing.checks import Check, checks_of
from mimo_core.testing.conformance_case import Subject
from mimo_core.testing.outcome import Finding, Outcome, from_json
from mimo_core.testing.rank_results import read_lines
from mimo_core.testing.ranks import RankFailure, run_ranks

Pair = tuple[str, str]
"""A class, and a check of it."""

_TIMEOUT = 1800.0
"""Seconds that a launch may take in all; a check that does not end is ended long before."""


def on_ranks(subject: type[Subject], check: Check) -> Outcome:
    """What a check says on its ranks."""
    pairs = _pairs(subject, check.ranks)
    return _launch(inspect.getfile(subject), check.ranks, pairs)[subject.__qualname__, check.name]


def _pairs(subject: type[Subject], ranks: int) -> tuple[Pair, ...]:
    """All checks on so many ranks of all subjects of the file."""
    module = sys.modules[subject.__module__]
    found = [
        one
        for one in vars(module).values()
        if isinstance(one, type)
        and issubclass(one, Subject)
        and one.__module__ == module.__name__
        and one.__name__.startswith("Test")
        and hasattr(one, "plugin")
    ]
    return tuple(
        (one.__qualname__, check.name)
        for one in (found if subject in found else [*found, subject])
        for check in checks_of(one)
        if check.ranks == ranks
    )


@cache
def _launch(file: str, ranks: int, pairs: tuple[Pair, ...]) -> Mapping[Pair, Outcome]:
    return run_checks(file, ranks, pairs)


def run_checks(file: str, ranks: int, pairs: Sequence[Pair]) -> Mapping[Pair, Outcome]:
    """Run checks on ranks; those that a dying rank kept from running are run by other processes.

    Args:
        file: Is imported on the ranks.
        ranks: Processes.
        pairs: Qualified name of a class of the file, and name of a check.

    Returns:
        By pair; of several ranks, the one that says most.
    """
    outcomes: dict[Pair, Outcome] = {}
    while left := [pair for pair in pairs if pair not in outcomes]:
        before = len(outcomes)
        ended = _run_once(file, ranks, left, outcomes)
        if ended and len(outcomes) == before:
            # Not even the first check began.
            return dict.fromkeys(left, _not_begun(ended)) | outcomes
    return outcomes


def _run_once(file: str, ranks: int, pairs: Sequence[Pair], outcomes: dict[Pair, Outcome]) -> str:
    """Run what has no outcome yet; how the ranks failed, or nothing."""
    with tempfile.TemporaryDirectory() as folder:
        given = {"file": file, "pairs": [list(pair) for pair in pairs], "folder": folder}
        ended = ""
        try:
            run_ranks("mimo_core.testing.rank_harness:run", ranks=ranks, timeout=_TIMEOUT, **given)
        except RankFailure as failure:
            ended = str(failure)
        # What the others say of a rank that died follows from its death.
        for rank in sorted(range(ranks), key=lambda rank: not _is_of(rank, ended)):
            _take(rank, read_lines(Path(folder) / f"rank-{rank}.jsonl"), outcomes, ended)
    return ended


def _take(
    rank: int, lines: list[dict[str, Any]], outcomes: dict[Pair, Outcome], ended: str
) -> None:
    """One rank's outcomes: what failed first says most."""
    found = {tuple(line["ended"]): from_json(line["outcome"]) for line in lines if "ended" in line}
    for line in lines:
        pair: Pair = tuple(line.get("begun", ()))
        if pair and pair not in found:
            killed = not _is_of(rank, ended)
            found[pair] = Outcome(status="failed", findings=(_died(ended),), waited=killed)
    for pair, outcome in found.items():
        if pair not in outcomes or _worse(outcome, outcomes[pair]):
            outcomes[pair] = outcome


def _is_of(rank: int, ended: str) -> bool:
    return ended.startswith(f"rank {rank} ")


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


def _not_begun(ended: str) -> Outcome:
    finding = Finding(
        said=f"no check could begin on ranks: {ended}",
        fix="mend the test's file, or the plugin's import",
    )
    return Outcome(status="failed", findings=(finding,))
