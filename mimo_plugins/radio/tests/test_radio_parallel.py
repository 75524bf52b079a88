"""The module on two ranks: tensor parallelism, and where its parameters lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mimo_core.testing import run_ranks

RANK_FUNCTIONS = Path(__file__).with_name("ranks_parallel.py")


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return run_ranks(f"{RANK_FUNCTIONS}:two_ranks", ranks=2)


@pytest.mark.parametrize(
    ("case", "options"), list(enumerate(("affine", "mlp with crops", "dynamic")))
)
def test_tp_2_equals_tp_1(ranks: list[dict[str, Any]], case: int, options: str) -> None:
    """Same weights, every rank: output and gradients up to the order of sums in fp32."""
    for rank in ranks:
        compared = rank["compared"][case]
        assert compared["shape"] == [8, 24], options
        assert compared["split"] < 0.7 * compared["whole"]
        assert compared["output"] < 1e-5
        assert {name: gap for name, gap in compared["gradients"].items() if gap > 1e-4} == {}
        assert compared["wrongly_saved"] == []


SHAPES = ("affine fixed", "affine dynamic", "mlp fixed", "mlp dynamic")


@pytest.mark.parametrize(("case", "shape"), list(enumerate(SHAPES)))
@pytest.mark.parametrize(("grid", "sizes"), list(enumerate(("dp 2", "tp 2"))))
def test_ranks_hold_the_parameters_described(
    ranks: list[dict[str, Any]], case: int, shape: str, grid: int, sizes: str
) -> None:
    """By part and layer; what the plan's memory figures stand on."""
    for rank in ranks:
        assert len(rank["weights"]) == len(SHAPES)
        compared = rank["weights"][case][grid]
        assert compared["held"] == compared["described"], (shape, sizes)
        assert {"encoder first", "encoder 0", "encoder 1", "projector last"} == {*compared["held"]}
