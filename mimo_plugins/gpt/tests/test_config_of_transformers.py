"""Every key of ``config.json``, left out and changed: transformers' logits, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from mimo_plugin_gpt.config_tables import KEYS

from mimo_core.testing import config_cases

pytestmark = pytest.mark.long

TOLERANCE = 1e-5
"""Relative to the largest logit, in float32: see ``test_transformers``."""


@pytest.fixture(scope="module")
def compared() -> Any:
    return config_cases.compared(__file__, kinds=list(KEYS))


@pytest.mark.parametrize("kind", KEYS)
def test_each_key_left_out_or_changed_gives_the_same_logits_or_is_refused_by_name(
    compared: dict[str, Any], kind: str
) -> None:
    assert config_cases.wrong(compared[kind]["cases"], TOLERANCE) == {}


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
