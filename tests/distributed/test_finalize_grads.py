"""One token mean over the global batch: the same N for every module, sums over its own ranks."""

from __future__ import annotations

from mimo_core.testing import run_ranks

from ..helpers.paths import RANK_FUNCTIONS


def test_every_module_divides_by_the_tokens_of_the_whole_batch() -> None:
    path = RANK_FUNCTIONS / "finalize_grads.py"
    encoder, first, second = run_ranks(f"{path}:finalize", ranks=3)
    tokens = 3 + 5
    assert encoder == [8 / tokens], "an encoder has no tokens of its own, and the same divisor"
    assert first == second == [(16 + 24) / tokens], "summed over its own data-parallel ranks"
