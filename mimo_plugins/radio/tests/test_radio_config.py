"""Every key of ``config.json``, left out and changed: transformers' numbers, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mimo_core.testing import run_ranks

pytestmark = pytest.mark.long

TOLERANCE = 1e-5
"""Relative to the largest number, in float32: sums are taken in another order."""


@pytest.fixture(scope="module")
def compared() -> dict[str, Any]:
    function = f"{Path(__file__).with_name('config_ranks.py')}:one_rank"
    found: dict[str, Any] = run_ranks(function, timeout=600.0)[0]
    return found


def test_each_key_left_out_or_changed_gives_the_same_numbers_or_is_refused_by_name(
    compared: dict[str, Any],
) -> None:
    wrong = {
        name: case
        for name, case in compared["cases"].items()
        if not ("difference" in case and case["difference"] < TOLERANCE)
        and not ("refused" in case and case["key"] and case["key"] in case["refused"])
        and "neither" not in case
    }
    assert wrong == {}
    assert sum("refused" in case for case in compared["cases"].values()) > 20
    assert sum("difference" in case for case in compared["cases"].values()) > 10


def test_every_key_of_the_class_is_known_with_its_default(compared: dict[str, Any]) -> None:
    assert compared["unknown"] == []
    assert compared["defaults"] == {}
