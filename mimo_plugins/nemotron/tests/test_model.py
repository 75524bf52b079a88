"""The model on real ranks: this process imports no megatron."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mimo_core.testing.ranks import run_ranks

RANK_FUNCTIONS = Path(__file__).with_name("rank_functions.py")
PATTERNS = ["M", "*", "-", "E", "M*-E"]

TOLERANCE = 2e-5
"""Of float32 sums taken in another order (rows of a matrix split over tp, gradients over dp):
about 2^-23 a sum, over a few hundred terms and four layers; losses are around 5."""


def run(function: str, ranks: int = 1, **arguments: Any) -> list[Any]:
    return run_ranks(f"{RANK_FUNCTIONS}:{function}", ranks=ranks, **arguments)


@pytest.fixture(scope="module")
def one_rank() -> dict[str, Any]:
    result: dict[str, Any] = run("one_rank", patterns=PATTERNS)[0]
    return result


@pytest.fixture(scope="module")
def facts(one_rank: dict[str, Any]) -> dict[str, dict[str, Any]]:
    result: dict[str, dict[str, Any]] = one_rank["layers"]
    return result


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_layer_type_trains(facts: dict[str, dict[str, Any]], pattern: str) -> None:
    assert facts[pattern]["losses"] == [3, 12]
    assert facts[pattern]["without_gradient"] == []


@pytest.mark.parametrize("pattern", PATTERNS)
def test_parameters_are_described(facts: dict[str, dict[str, Any]], pattern: str) -> None:
    assert facts[pattern]["parameters"] == facts[pattern]["described"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_causal(facts: dict[str, dict[str, Any]], pattern: str) -> None:
    assert facts[pattern]["earlier_logits"] == 0
    seen = facts[pattern]["later_logits"] > 0
    assert seen == ("M" in pattern or "*" in pattern)


def test_megatron_still_needs_ours(one_rank: dict[str, Any]) -> None:
    """When one of these fails, the class of ours that it names can go."""
    stock = one_rank["stock"]
    assert "Transformer" in stock["final norm"], "LocalHybridStack"
    assert "sequence parallel not supported" in stock["norm"], "RMSNorm"
    assert stock["split sizes"] == "Tensor", "LocalTokenDispatcher"


def test_kernels_reach_a_mixer_that_was_imported_early(one_rank: dict[str, Any]) -> None:
    assert one_rank["kernels"] == {"before": False, "after": True, "same": True}


GRIDS = [
    {"tp": 2},
    {"tp": 2, "expert_tp": 2},
    {"tp": 2, "ep": 2},
    {"dp": 2, "ep": 2},
]


@pytest.fixture(scope="module")
def two_ranks() -> list[dict[str, Any]]:
    return run("two_ranks", ranks=2, grids=GRIDS)


@pytest.mark.parametrize("grid", range(len(GRIDS)), ids=map(str, GRIDS))
def test_two_ranks_compute_what_one_does(two_ranks: list[dict[str, Any]], grid: int) -> None:
    for result in two_ranks:
        compared = result["grids"][grid]
        assert compared["sequence_parallel"] == ("tp" in GRIDS[grid])
        assert compared["losses"] < TOLERANCE
        assert compared["gradients"] < TOLERANCE


def test_two_pipeline_stages(two_ranks: list[dict[str, Any]]) -> None:
    for result in two_ranks:
        assert result["stages"]["layers"] == 2
        assert result["stages"]["losses"] < TOLERANCE
