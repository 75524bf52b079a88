"""What is adapted in megatron has a reason: this fails once megatron has mended it."""

from __future__ import annotations

from mimo_core.testing import run_ranks

from ..helpers.paths import RANK_FUNCTIONS


def test_megatron_still_gives_every_reason() -> None:
    path = RANK_FUNCTIONS / "megatron_patches.py"
    (reasons,) = run_ranks(f"{path}:reasons")
    gone = [reason for reason, given in reasons.items() if not given]
    assert not gone, "megatron has mended these: take the adaptation out (docs/architecture.md)"


def test_nothing_is_compiled_that_no_layer_has() -> None:
    path = RANK_FUNCTIONS / "megatron_patches.py"
    assert run_ranks(f"{path}:compiled_at_the_start") == [[]]
