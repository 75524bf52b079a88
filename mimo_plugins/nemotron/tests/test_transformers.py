"""The same weights compute the same as in transformers' NemotronH."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mimo_core.testing import run_ranks

RANK_FUNCTIONS = Path(__file__).with_name("transformers_ranks.py")
LENGTH = 70
"""More than one chunk of 64 of the Mamba2 scan, and no whole number of them."""
OPTIONS: dict[str, Any] = {
    "pattern": "M*-EM",
    "head_dim": 12,
    "mamba_heads": 6,
    "experts": 6,
    "experts_per_token": 2,
    "router_bias": True,
    "routed_scaling": 2.5,
}
TOLERANCE = 1e-5
"""Relative to the largest entry of each tensor, in float32: sums are taken in another order, which
shows up to 2e-6. What differs in kind, such as a norm's epsilon by a tenth, shows from 1e-3 on."""


@pytest.fixture(scope="module")
def compared() -> dict[str, Any]:
    function = f"{RANK_FUNCTIONS}:one_rank"
    result: dict[str, Any] = run_ranks(function, length=LENGTH, options=OPTIONS)[0]
    return result


def test_the_weight_map_names_all_that_is_in_the_checkpoint(compared: dict[str, Any]) -> None:
    assert compared["unnamed"] == []


def test_same_logits(compared: dict[str, Any]) -> None:
    assert compared["logits"] < TOLERANCE


def test_same_gradient_of_every_parameter(compared: dict[str, Any]) -> None:
    assert len(compared["gradients"]) == 3 + 2 * 9 + 5 + 3 + 4 + 2 * 6
    differences = compared["gradients"]
    wrong = {name: d for name, d in differences.items() if not d < TOLERANCE}
    assert wrong == {}
