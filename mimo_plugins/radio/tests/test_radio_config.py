"""Every key of ``config.json``, left out and changed: transformers' numbers, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from mimo_core.testing import config_cases

pytestmark = pytest.mark.long

TOLERANCE = 1e-5
"""Relative to the largest number, in float32: sums are taken in another order."""


@pytest.fixture(scope="module")
def compared() -> Any:
    return config_cases.compared(__file__)


def test_each_key_left_out_or_changed_gives_the_same_numbers_or_is_refused_by_name(
    compared: dict[str, Any],
) -> None:
    cases = compared["cases"]
    assert config_cases.wrong(cases, TOLERANCE) == {}
    assert sum("refused" in case for case in cases.values()) > 20
    assert sum("difference" in case for case in cases.values()) > 10


def test_a_model_of_the_exported_config_computes_the_same(compared: dict[str, Any]) -> None:
    assert compared["cases"]["exported"]["difference"] < TOLERANCE


def test_every_key_of_the_class_is_known_with_its_default(compared: dict[str, Any]) -> None:
    assert compared["unknown"] == []
    assert compared["defaults"] == {}
