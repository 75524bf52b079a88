"""Layers with biases can be recomputed."""

from __future__ import annotations

from mimo_core.testing import run_ranks

from ..helpers.paths import RANK_FUNCTIONS


def test_a_bias_that_is_given_back_learns_as_ever() -> None:
    (told,) = run_ranks(f"{RANK_FUNCTIONS / 'recompute.py'}:biases")
    in_core, *mended = told["stock"]
    assert in_core, "megatron leaves parameters alone now: megatron_patches/recompute.py can go"
    assert mended == [False, False]
    assert told["again"] == told["plain"]
    assert any(told["plain"][2])
