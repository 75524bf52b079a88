"""Samples that lie end to end compute what each computes alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mimo_core.testing import run_ranks

RANK_FUNCTIONS = Path(__file__).with_name("packed_ranks.py")
LENGTHS = [64, 70, 1, 131, 6]
"""The Mamba2 scan goes by chunks of 64: samples end at the end of one, and within one."""
GRIDS = [{"dp": 2}, {"tp": 2}, {"tp": 2, "ep": 2}]
TOLERANCE = 1e-5
"""On logits (around 1) and on gradients relative to each parameter's largest, in float32."""


@pytest.fixture(scope="module")
def packed() -> list[dict[str, Any]]:
    return run_ranks(f"{RANK_FUNCTIONS}:two_ranks", ranks=2, lengths=LENGTHS, grids=GRIDS)


@pytest.mark.parametrize("grid", [str(sizes) for sizes in GRIDS])
def test_packed_samples_are_each_alone(packed: list[dict[str, Any]], grid: str) -> None:
    for result in packed:
        assert result[grid]["logits"] < TOLERANCE
        assert result[grid]["gradients"] < TOLERANCE


def test_packed_samples_on_two_pipeline_stages(packed: list[dict[str, Any]]) -> None:
    assert max(result["pp"]["logits"] for result in packed) < TOLERANCE


def test_an_attention_window_is_not_ignored(packed: list[dict[str, Any]]) -> None:
    assert "window_size ([4, 0])" in packed[0]["window"]
