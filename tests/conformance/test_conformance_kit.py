"""The conformance kit: silent about good plugins, and of each fault it says what to do."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ..helpers.paths import BROKEN_PLUGINS

KIT = BROKEN_PLUGINS
sys.path.insert(0, str(KIT))

import faults  # noqa: E402
import good_plugins as good  # noqa: E402
from fault import Fault  # noqa: E402

from mimo_core.testing import Conformance, raises_code  # noqa: E402
from mimo_core.testing.checks import CHECKS, Check, checks_of  # noqa: E402
from mimo_core.testing.checks.datasets import SPLITS, looked_at  # noqa: E402
from mimo_core.testing.conformance_case import Subject  # noqa: E402
from mimo_core.testing.fixtures import Bench  # noqa: E402
from mimo_core.testing.launch import run_checks  # noqa: E402
from mimo_core.testing.outcome import Finding, Outcome, outcome_of  # noqa: E402
from mimo_core.testing.rank_results import Progress  # noqa: E402

BY_NAME = {check.name: check for check in CHECKS}
GOOD = (good.GoodEncoder, good.GoodWrapper)


@cache
def launched(ranks: int) -> Any:
    """All faults that show on so many ranks, and the good plugins, in one launch."""
    pairs = [
        (name_of(one), check.name)
        for one in GOOD
        for check in checks_of(one)
        if check.ranks == ranks
    ]
    pairs += [(name_of(one), one.expected[0]) for one in faults.faults(ranks)]
    return run_checks(str(KIT / "faults.py"), ranks, pairs)


def name_of(subject: type[Subject]) -> str:
    """Where ``faults.py`` has it."""
    return f"{subject.__module__}.{subject.__name__}"


def outcome(subject: type[Subject], check: Check) -> Outcome:
    if check.ranks:
        found: Outcome = launched(check.ranks)[name_of(subject), check.name]
        return found
    return outcome_of(lambda: check(Bench(subject())))


@pytest.mark.parametrize(
    ("subject", "check"),
    [
        pytest.param(one, check, id=f"{one.__name__}-{check.name}")
        for one in (*GOOD, good.GoodDataset, good.GoodDataWrapper)
        for check in checks_of(one)
    ],
)
def test_nothing_is_said_of_a_good_plugin(subject: type[Subject], check: Check) -> None:
    found = outcome(subject, check)
    assert found.status != "failed", found.message


@pytest.mark.parametrize(
    "fault",
    [fault for ranks in (0, 1, 2) for fault in faults.faults(ranks)],
    ids=lambda fault: fault.__name__,
)
def test_a_fault_is_told_with_what_to_do(fault: type[Fault]) -> None:
    check, words = fault.expected
    found = outcome(fault, BY_NAME[check])
    assert found.status == "failed"
    assert words in found.message
    assert "to do: " in found.message


def test_a_wrapper_says_itself_how_many_samples_are_looked_at() -> None:
    subject = type("Few", (good.GoodDataWrapper,), {"looked_at": 2})
    assert len(list(looked_at(Bench(subject())))) == 2 * len(SPLITS)


@pytest.mark.parametrize(
    ("attributes", "wrong"),
    [({"plugin": "radio"}, "kind"), ({"plugin": "lora", "kind": "wrapper"}, "wraps")],
)
def test_a_class_that_would_test_nothing_is_refused(attributes: dict[str, Any], wrong: str) -> None:
    with raises_code("testing.wrong-subject", subject="TestMine", attribute=wrong):
        type("TestMine", (Conformance,), attributes)


def test_a_rank_whose_partner_waited_in_vain_says_that(tmp_path: Path) -> None:
    """The partner's end breaks the collective that this one is in, a moment before it would have
    waited as long."""
    check = BY_NAME["ranks_without_media_do_not_hang"]
    partner, own = (Progress(tmp_path, rank, 2) for rank in (0, 1))
    waited = Outcome(status="failed", findings=(Finding(said="rank 0 waits", fix=""),), waited=True)
    broken = Outcome(status="failed", findings=(Finding(said="Connection closed by peer", fix=""),))
    assert own._because("Mine", check, broken) == broken, "nobody has waited"
    partner._end("Mine", check, waited)
    assert own._because("Mine", check, broken) == waited
    fine = Outcome(status="passed")
    assert own._because("Mine", check, fine) == fine
