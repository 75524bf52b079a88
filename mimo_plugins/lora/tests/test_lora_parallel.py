"""Adapters on two ranks: what they compute, whatever the grid, and what is written of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mimo_core.testing import run_ranks

MODULES = ("radio", "gpt", "nemotron")
ALL = (*MODULES, "hf-vision")
"""One of them a tower of transformers, which has no tp."""
TOLERANCE = 1e-5
"""Of outputs and losses of about 1 to 10 in fp32: sums in another order show up to 4e-6."""
GRADIENTS = 1e-4
"""Of a gradient's largest entry, as in the plugins' own tests."""


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return run_ranks(
        f"{Path(__file__).with_name('lora_ranks.py')}:two_ranks", ranks=2, timeout=1800
    )


@pytest.mark.parametrize("plugin", ALL)
def test_adapters_begin_by_adding_nothing(ranks: list[dict[str, Any]], plugin: str) -> None:
    assert [rank[plugin]["untrained"] for rank in ranks] == [0.0, 0.0]


@pytest.mark.parametrize("plugin", MODULES)
def test_tp_2_equals_tp_1_and_adapters_alone_learn(
    ranks: list[dict[str, Any]], plugin: str
) -> None:
    """Of every kind of layer: attention, Mamba2, feed-forward, experts; with sequence parallelism
    in the language model, without in the encoder."""
    for rank in ranks:
        found = rank[plugin]
        assert found["output"] < TOLERANCE
        assert found["learning"] == ["lora_a", "lora_b"]
        assert found["held"] < 0.8 * found["whole"], "a matrix of each is divided"
        wrong = {k: gap for k, gap in found["gradients"].items() if gap is None or gap > GRADIENTS}
        assert wrong == {}
    keys = set().union(*(rank[plugin]["gradients"] for rank in ranks))
    if plugin == "radio":
        assert "vit.decoder.layers.1.mlp.linear_fc2.lora_a" in keys
        assert "vit.decoder.layers.1.mlp.linear_fc1.lora_a" not in keys
    elif plugin == "gpt":
        assert {key.split(".")[2] for key in keys} == {"1"}
    else:
        assert "decoder.layers.0.mixer.in_proj.lora_b.dt" in keys
        for expert in range(4):
            assert f"decoder.layers.3.mlp.experts.experts.{expert}.linear_fc1.lora_b" in keys


@pytest.mark.parametrize("plugin", ALL)
def test_the_merged_weights_compute_what_the_adapted_model_does(
    ranks: list[dict[str, Any]], plugin: str
) -> None:
    for rank in ranks:
        assert rank[plugin]["unnamed"] == []
        assert rank[plugin]["merged"]["gap"] < 2e-5, "products are summed in another order"
        assert rank[plugin]["merged"]["moved"] > 0.1


def test_recomputed_layers_get_their_gradients(ranks: list[dict[str, Any]]) -> None:
    """Megatron's checkpoints give none where no input wants any, as below the first adapter."""
    for rank in ranks:
        gradients = rank["recomputed"]["gradients"]
        assert len(gradients) > 20
        assert all(gap is not None and gap < 1e-6 for gap in gradients.values()), gradients


def test_wrong_targets_are_told_with_the_names_there_are(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        misspelt = rank["refused"]["decoder.layers.*.linear_qkw"]
        assert misspelt.startswith(
            "modules.language.wrappers.lora.targets: 'decoder.layers.*.linear"
        )
        assert "Did you mean 'linear_qkv'? Its layers: " in misspelt
        assert (
            "names 'decoder.layers.3.mlp.router', which is a TopKRouter"
            in (rank["refused"]["*.router"])
        )
        assert "names no linear layer" in rank["refused"]["*.embeder"]
        assert rank["refused"]["rank"].startswith(
            "modules.language.wrappers.lora.rank: rank 17 exceeds the smaller side of "
            "'decoder.layers.3.mlp.shared_experts.linear_fc2', which is 32 x 16 (out x in)"
        )
