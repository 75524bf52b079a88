"""``modules.language.megatron`` may have activations recomputed in the backward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mimo_core.testing import run_ranks

RANK_FUNCTIONS = Path(__file__).with_name("recompute_ranks.py")
ATTENTION = "decoder.layers.1.self_attention.core_attention"
MLP = "decoder.layers.2.mlp"
EXPERTS = "decoder.layers.3.mlp.experts"
SHARED = "decoder.layers.3.mlp.shared_experts"
MIXER = "decoder.layers.0.mixer"
PARTS = {MIXER, ATTENTION, MLP, EXPERTS, SHARED}


def full(method: str, layers: int) -> dict[str, Any]:
    return {
        "recompute_granularity": "full",
        "recompute_method": method,
        "recompute_num_layers": layers,
    }


def selective(*parts: str) -> dict[str, Any]:
    return {"recompute_granularity": "selective", "recompute_modules": list(parts)}


CASES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "every layer": (full("uniform", 1), PARTS),
    "pieces of 3 layers": (full("uniform", 3), PARTS),
    "the first 2 layers": (full("block", 2), {MIXER, ATTENTION}),
    "attention": (selective("core_attn"), {ATTENTION}),
    "mlp": (selective("mlp"), {MLP}),
    "experts": (selective("moe"), {EXPERTS, SHARED}),
    "shared expert": (selective("shared_experts"), {SHARED}),
    "several": (selective("core_attn", "moe"), {ATTENTION, EXPERTS, SHARED}),
}


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    settings = {name: fields for name, (fields, _) in CASES.items()}
    return run_ranks(f"{RANK_FUNCTIONS}:two_ranks", ranks=2, settings=settings)


@pytest.mark.parametrize("case", CASES)
def test_what_is_recomputed_is_the_same(ranks: list[dict[str, Any]], case: str) -> None:
    """Losses and gradients, padded and packed, with dropout, on tp 2."""
    for result in ranks:
        assert result[case]["losses"] == 0
        assert result[case]["gradients"] < 1e-6
        assert PARTS & set(result[case]["twice"]) == CASES[case][1]
