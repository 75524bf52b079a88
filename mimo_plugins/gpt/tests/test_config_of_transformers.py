"""Every key of ``config.json``, left out and changed: transformers' logits, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mimo_plugin_gpt.config_tables import KEYS

from mimo_core.testing import run_ranks

pytestmark = pytest.mark.long

TOLERANCE = 1e-5
"""Relative to the largest logit, in float32: see ``test_transformers``."""


@pytest.fixture(scope="module")
def compared() -> dict[str, Any]:
    function = f"{Path(__file__).with_name('config_ranks.py')}:one_rank"
    found: dict[str, Any] = run_ranks(function, kinds=list(KEYS), timeout=600.0)[0]
    return found


@pytest.mark.parametrize("kind", KEYS)
def test_each_key_left_out_or_changed_gives_the_same_logits_or_is_refused_by_name(
    compared: dict[str, Any], kind: str
) -> None:
    cases = compared[kind]["cases"]
    wrong = {
        name: case
        for name, case in cases.items()
        if not ("difference" in case and case["difference"] < TOLERANCE)
        and not ("refused" in case and case["key"] in case["refused"])
        and "neither" not in case
    }
    assert wrong == {}


@pytest.mark.parametrize("kind", KEYS)
def test_the_cases_reach_the_model(compared: dict[str, Any], kind: str) -> None:
    """Else a test in which nothing is read passes."""
    cases = compared[kind]["cases"].values()
    assert sum("refused" in case for case in cases) > 10
    assert sum("difference" in case for case in cases) > 20
    assert compared[kind]["models"] > 8


@pytest.mark.parametrize("kind", KEYS)
def test_every_key_of_the_class_is_known_with_its_default(
    compared: dict[str, Any], kind: str
) -> None:
    assert compared[kind]["unknown"] == []
    assert compared[kind]["defaults"] == {}


def test_the_language_model_of_a_whole_model_has_the_type_that_transformers_takes(
    compared: dict[str, Any],
) -> None:
    assert compared["text types"] == {}
