"""The same directory computes the same as in transformers, on every grid that is declared."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from gpt_modules import FAMILIES, language_module
from mimo_plugin_gpt import owned, plugin

from mimo_core.contract import Grid
from mimo_core.testing import run_ranks

RANK_FUNCTIONS = Path(__file__).with_name("transformers_ranks.py")
ROWS = {"whole": [16], "packed": [8, 12, 4]}
"""With cp every sample is a multiple of 2 cp."""
GRIDS: dict[str, list[dict[str, int]]] = {
    "llama": [{"dp": 2}, {"tp": 2}, {"cp": 2}, {"pp": 2}],
    "qwen2": [{"dp": 2}, {"tp": 2}, {"cp": 2}],  # tied: no pp
    "qwen3": [{"dp": 2}, {"tp": 2}, {"pp": 2}],
    "mixtral": [{"dp": 2}, {"tp": 2}, {"tp": 2, "ep": 2}, {"dp": 2, "ep": 2}, {"pp": 2}],
    "qwen3_moe": [{"dp": 2}, {"tp": 2, "etp": 2}, {"cp": 2, "ep": 2}, {"dp": 2, "ep": 2}],
}
"""``dp`` alone: the whole model on either rank."""
CASES = [(family, str(sizes)) for family, grids in GRIDS.items() for sizes in grids]
TOLERANCE = 1e-5
"""Relative to the largest entry of each tensor, in float32: sums are taken in another order, which
shows up to 3e-6. What differs in kind, such as a norm's epsilon by a tenth, shows from 1e-3 on."""


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return run_ranks(f"{RANK_FUNCTIONS}:two_ranks", ranks=2, rows=ROWS, grids=GRIDS)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("family", "grid"), CASES)
def test_same_logits_and_gradient_of_every_weight(
    ranks: list[dict[str, Any]], family: str, grid: str, rows: str
) -> None:
    for rank in ranks:
        compared = rank[family][grid][rows]
        assert compared["logits"] < TOLERANCE
        assert compared["gradient"][0] < TOLERANCE, compared["gradient"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_directory_tells_the_shape(ranks: list[dict[str, Any]], family: str) -> None:
    assert ranks[0][family]["as like"] == ranks[0][family]["as options"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_weight_map_names_all_that_is_in_the_checkpoint(
    ranks: list[dict[str, Any]], family: str
) -> None:
    assert ranks[0][family]["unnamed"] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_come_back_to_the_last_bit(ranks: list[dict[str, Any]], family: str) -> None:
    assert ranks[0][family]["round trip"] == []


@pytest.mark.parametrize(("family", "grid"), CASES)
def test_parameters_lie_on_ranks_as_described(
    ranks: list[dict[str, Any]], family: str, grid: str
) -> None:
    sizes = next(sizes for sizes in GRIDS[family] if str(sizes) == grid)
    for at, rank in enumerate(ranks):
        stage = at if "pp" in sizes else 0
        described = _parameters_of_stage(Grid(**sizes), stage, FAMILIES[family])
        assert rank[family][grid]["whole"]["parameters"] == described


def _parameters_of_stage(grid: Grid, stage: int, options: dict[str, Any]) -> int:
    """Parameters of one rank of a pipeline stage, as described."""
    description = plugin.describe_module(language_module(grid, **options))
    ends = {"first": 0, "last": grid.pp - 1}
    layers = description.num_layers // grid.pp
    return sum(
        weights.num_parameters // math.prod(getattr(grid, size) for size in weights.sharded_over)
        for weights in description.parameters
        if stage
        == (ends[weights.layer] if isinstance(weights.layer, str) else weights.layer // layers)
    )


def test_tensor_parallel_ranks_share_the_sequence(ranks: list[dict[str, Any]]) -> None:
    for family, grid in CASES:
        shared = ranks[0][family][grid]["whole"]["sequence_parallel"]
        assert shared == ("'tp': 2" in grid), (family, grid)


def test_a_recipe_may_not_set_what_the_options_say(ranks: list[dict[str, Any]]) -> None:
    assert set(ranks[0]["qwen3_moe"]["architecture"]) == owned.FROM_OPTIONS


def test_checkpoints_have_the_keys_of_transformer_engine_layers(
    ranks: list[dict[str, Any]],
) -> None:
    """Where TransformerEngine fuses a norm into the linear layer behind it, that has its key."""
    begin = "decoder.layers."
    fused = f"{begin}self_attention.linear_qkv.layer_norm_weight"
    gated = f"{begin}mlp.linear_fc1.layer_norm_weight"
    heads = {f"{begin}self_attention.{one}_layernorm.weight" for one in "qk"}
    due = {
        "llama": {gated, fused},
        "qwen3": {gated, fused, *heads},
        "mixtral": {f"{begin}pre_mlp_layernorm.weight", fused},
    }
    for family, norms in due.items():
        assert set(ranks[0][family]["norms"]) == norms | {"decoder.final_layernorm.weight"}


def test_the_load_balancing_loss_moves_the_router_alone(ranks: list[dict[str, Any]]) -> None:
    """Of the last layer: what comes before it feels the router too."""
    assert ranks[0]["balanced"] == ["router.weight"]


@pytest.mark.parametrize("recompute", ["full", "selective"])
def test_recomputed_activations_change_nothing(ranks: list[dict[str, Any]], recompute: str) -> None:
    assert ranks[0]["recomputed"][recompute] == 0
