"""Layers of the language model as CUDA graphs (``modules.language.megatron.cuda_graph_impl``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mimo_core.testing import run_ranks

RANK_FUNCTIONS = Path(__file__).with_name("graph_ranks.py")
SMALL: dict[str, Any] = {
    "pattern": "MEM*-",
    "hidden_size": 256,
    "attention_heads": 4,
    "mamba_heads": 8,
    "mamba_head_dim": 64,
    "mamba_state": 64,
    "mamba_groups": 2,
    "experts": 4,
    "experts_per_token": 2,
    "dropout": 0.0,
}


def test_the_same_recipe_runs_on_cpus_without_what_gpus_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MIMO_PLATFORM", "cpu")
    (said,) = run_ranks(f"{RANK_FUNCTIONS}:on_cpus")
    told = (
        "language: cuda_graph_impl, cuda_graph_modules, apply_rope_fusion, "
        "moe_permute_fusion, moe_router_fusion, cross_entropy_fusion_impl, "
        "cross_entropy_loss_fusion are not read on CPUs"
    )
    assert said == [told, 0, []]


def test_parts_that_a_model_has_not_are_told() -> None:
    """Of real layers: those of a part are the ones that it captures."""
    patterns = ["M*-E", "M*", "-E", "E", "M-"]
    (told,) = run_ranks(f"{RANK_FUNCTIONS}:captures_nothing", patterns=patterns)
    assert told == [
        [],
        ["moe"],
        ["mamba", "attn"],
        ["mamba", "attn"],
        ["attn", "moe"],
    ]


def test_layers_in_evaluation_are_not_replayed() -> None:
    (called,) = run_ranks(f"{RANK_FUNCTIONS}:in_evaluation")
    assert called == ["graph", "layer", "layer"]


@pytest.mark.gpu
def test_layers_learn_the_same_however_they_are_run() -> None:
    graphs = {"cuda_graph_impl": "local", "cuda_graph_modules": ["mamba", "attn"]}
    (told,) = run_ranks(
        f"{RANK_FUNCTIONS}:compare",
        timeout=1800,
        options=SMALL,
        length=512,
        kinds={"graphs": graphs, "again": graphs},
        microbatches=3,
    )
    for kind in ("graphs", "again"):
        assert told[kind]["touched"] == 0
        before, after, half = told[kind]["evaluated"]
        # bf16 rounds to 8 bits; a matrix product may be another kernel's under capture.
        assert after == pytest.approx(before, rel=1e-2) and half > 0
        for name, (apart, repeated) in told[kind]["worst"].items():
            # Mamba's kernels add in any order: a plain step repeated is not the same either.
            assert apart < max(2e-2, 3 * repeated), (kind, name)
