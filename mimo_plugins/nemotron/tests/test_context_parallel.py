"""Ranks that share every sequence compute what one computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mimo_plugin_nemotron import plugin
from nemotron_modules import language_module

from mimo_core.contract import Grid
from mimo_core.testing import raises_code, run_ranks

RANK_FUNCTIONS = Path(__file__).with_name("context_ranks.py")
ROWS = {
    "whole": (2, [144]),
    "packed": (1, [64, 72, 8, 136, 8]),
}
"""Longer than a chunk of the Mamba2 scan (64); every sample is a multiple of 2 cp."""
GRIDS = [{"cp": 4}, {"tp": 2, "cp": 2}, {"cp": 2, "dp": 2, "ep": 2}]
"""With cp 4 the two groups of the Mamba2 layers lie on two ranks each."""
LOSS_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4
"""Losses are around 5, gradients relative to each parameter's largest. float32 sums are taken in
another order; those of a Mamba2 head's parameters over 288 positions lose a digit (1e-5 seen)."""


@pytest.fixture(scope="module")
def shared() -> list[dict[str, Any]]:
    return run_ranks(f"{RANK_FUNCTIONS}:four_ranks", ranks=4, rows=ROWS, grids=GRIDS)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("grid", [str(sizes) for sizes in GRIDS])
def test_shared_rows_have_the_losses_and_gradients_of_one_rank(
    shared: list[dict[str, Any]], rows: str, grid: str
) -> None:
    for result in shared:
        assert result[rows][grid]["losses"] < LOSS_TOLERANCE
        assert result[rows][grid]["gradients"] < GRADIENT_TOLERANCE


def test_ranks_share_whole_groups_of_heads_or_parts_of_one() -> None:
    for tp, cp in ((1, 3), (2, 3), (1, 12)):
        plugin.describe_module(language_module(Grid(tp=tp, cp=cp), mamba_heads=12, mamba_groups=6))
    with raises_code("layout.does-not-divide", size="cp", value=4, groups=6):
        plugin.describe_module(language_module(Grid(cp=4), mamba_heads=12, mamba_groups=6))
