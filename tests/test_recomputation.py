"""Layers with biases can be recomputed."""

from __future__ import annotations

from pathlib import Path

from mimo_core.testing import run_ranks

HERE = Path(__file__).parent


def test_a_bias_that_is_given_back_learns_as_ever() -> None:
    (told,) = run_ranks(f"{HERE / 'ranks_recomputation.py'}:biases")
    in_core, *mended = told["stock"]
    assert in_core, "megatron leaves parameters alone now: model/recomputation.py can go"
    assert mended == [False, False]
    assert told["again"] == told["plain"]
    assert any(told["plain"][2])
