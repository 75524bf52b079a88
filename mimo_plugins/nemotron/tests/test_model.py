"""The model on real ranks: this process imports no megatron."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from mimo_plugin_nemotron import owned, plugin
from mimo_plugin_nemotron.description import mamba_widths
from nemotron_modules import BATCH, SEQUENCE, language_module

from mimo_core.contract import Grid
from mimo_core.testing.ranks import run_ranks

RANK_FUNCTIONS = Path(__file__).with_name("nemotron_ranks.py")
MODELS: dict[str, dict[str, Any]] = {
    "M": {"pattern": "M", "tie_embeddings": True},
    "*": {"pattern": "*", "head_dim": 16},
    "-": {"pattern": "-"},
    "E": {"pattern": "E"},
    "E softmax": {"pattern": "E", "router_score": "softmax", "shared_expert_ffn_hidden_size": 0},
    "E balanced": {"pattern": "E", "router_bias": True, "router_aux_loss": 0.01},
    "M*-E": {"pattern": "M*-E", "dropout": 0.1},
}

TOLERANCE = 1e-5
"""On losses (around 5) and on gradients relative to each parameter's largest: float32 sums are
taken in another order (a matrix's columns over tp, tokens over dp), which shows from 1e-6 on."""


def run(function: str, ranks: int = 1, **arguments: Any) -> list[Any]:
    return run_ranks(f"{RANK_FUNCTIONS}:{function}", ranks=ranks, **arguments)


@pytest.fixture(scope="module")
def one_rank() -> dict[str, Any]:
    result: dict[str, Any] = run("one_rank", models=MODELS)[0]
    return result


@pytest.fixture(params=MODELS)
def model(one_rank: dict[str, Any], request: pytest.FixtureRequest) -> dict[str, Any]:
    facts: dict[str, Any] = one_rank["models"][request.param]
    return facts | MODELS[request.param]


def test_every_layer_type_trains(model: dict[str, Any]) -> None:
    assert model["losses"] == [BATCH, SEQUENCE]
    assert model["without gradient"] == []


def test_parameters_are_described(model: dict[str, Any]) -> None:
    assert model["parameters"] == model["described"]


@pytest.mark.parametrize("name", ["*", "-", "E", "E softmax", "E balanced"])
def test_flops_are_those_that_a_forward_makes(one_rank: dict[str, Any], name: str) -> None:
    """Every matrix product. Here all scores are made, of which a causal mask leaves half."""
    module = language_module(**MODELS[name])
    (told,) = plugin.estimate_flops(module, [SEQUENCE] * BATCH)
    half = BATCH * SEQUENCE * (SEQUENCE - 1) / 2 if name == "*" else 0
    masked = half * 4 * module.options.attention_heads * module.options.attention_head_dim
    assert told.weight_matmul + told.activation_matmul + masked == one_rank["models"][name]["flops"]


def test_flops_are_those_of_megatron(one_rank: dict[str, Any]) -> None:
    """Its own figure of hybrid models knows neither the router nor the convolution, and of a sample
    of L positions L / 2 scores a position instead of (L + 1) / 2."""
    module = language_module(pattern="M*-E")
    options = module.options
    lengths = [5, 7]
    (told,) = plugin.estimate_flops(module, lengths)
    _, channels, _ = mamba_widths(options)
    router = 2 * sum(lengths) * options.hidden_size * options.experts
    convolution = 2 * sum(lengths) * channels * 4
    own = 2 * sum(lengths) * options.attention_heads * options.attention_head_dim
    rest = told.weight_matmul + told.activation_matmul - router - convolution - own
    assert one_rank["megatron flops"] == pytest.approx(3 * rest)


def test_the_weight_map_names_all_that_is_in_the_checkpoint(model: dict[str, Any]) -> None:
    assert model["unnamed"] == []


def test_a_recipe_may_not_set_what_the_options_say(one_rank: dict[str, Any]) -> None:
    assert set(one_rank["architecture"]) == owned.FROM_OPTIONS


def test_a_router_in_float64_is_not_fused(one_rank: dict[str, Any]) -> None:
    """TransformerEngine 2.20 refuses it in the first forward (``pytorch/router.py``)."""
    assert one_rank["fused routers"] == [True, False]


def test_causal(model: dict[str, Any]) -> None:
    """Logits before a changed token stay (but for the rounding of experts' batch sizes)."""
    assert model["earlier"] < 1e-7
    mixes = "M" in model["pattern"] or "*" in model["pattern"]
    assert (model["later"] > 1e-7) == mixes


def test_balancing_counts_every_choice(one_rank: dict[str, Any]) -> None:
    tokens, experts_per_token = BATCH * SEQUENCE, 2
    assert one_rank["models"]["E balanced"]["routed"] == [tokens * experts_per_token]
    assert one_rank["models"]["E"]["routed"] == []


def test_checkpoints_have_the_keys_of_transformer_engine_layers(one_rank: dict[str, Any]) -> None:
    keys = one_rank["checkpoint keys"]
    assert keys["missing"] == []
    assert keys["norms"] == [
        "decoder.final_norm.weight",
        "decoder.layers.0.mixer.in_proj.layer_norm_weight",
        "decoder.layers.0.mixer.norm.weight",
        "decoder.layers.1.self_attention.linear_qkv.layer_norm_weight",
        "decoder.layers.2.mlp.linear_fc1.layer_norm_weight",
        "decoder.layers.3.pre_mlp_layernorm.weight",
    ]


def test_megatron_still_needs_ours(one_rank: dict[str, Any]) -> None:
    """When one of these fails, the class of ours that it names can go."""
    stock = one_rank["stock"]
    assert "Transformer" in stock["final norm"], "LocalHybridStack"
    assert "sequence parallel not supported" in stock["norm"], "RMSNorm"
    assert stock["split sizes"] == "Tensor", "LocalTokenDispatcher"


def test_kernels_reach_a_mixer_that_was_imported_early(one_rank: dict[str, Any]) -> None:
    assert one_rank["kernels"] == {"before": False, "after": True, "same": True}


GRIDS = [
    {"tp": 2},
    {"tp": 2, "etp": 2},
    {"tp": 2, "ep": 2},
    {"dp": 2, "ep": 2},
]


@pytest.fixture(scope="module")
def two_ranks() -> list[dict[str, Any]]:
    return run("two_ranks", ranks=2, grids=GRIDS)


@pytest.mark.parametrize("grid", range(len(GRIDS)), ids=map(str, GRIDS))
def test_two_ranks_compute_what_one_does(two_ranks: list[dict[str, Any]], grid: int) -> None:
    for result in two_ranks:
        compared = result["grids"][grid]
        assert compared["sequence_parallel"] == ("tp" in GRIDS[grid])
        assert compared["losses"] < TOLERANCE
        assert compared["gradients"] < TOLERANCE


@pytest.mark.parametrize("grid", range(len(GRIDS)), ids=map(str, GRIDS))
def test_parameters_lie_on_ranks_as_described(two_ranks: list[dict[str, Any]], grid: int) -> None:
    described = parameters_of_stage(Grid(**GRIDS[grid]), 0)
    assert [result["grids"][grid]["parameters"] for result in two_ranks] == [described] * 2


def test_parameters_lie_on_stages_as_described(two_ranks: list[dict[str, Any]]) -> None:
    described = [parameters_of_stage(Grid(pp=2), stage) for stage in range(2)]
    assert [result["stages"]["parameters"] for result in two_ranks] == described


def parameters_of_stage(grid: Grid, stage: int) -> int:
    """Parameters of one rank of a pipeline stage, as described."""
    description = plugin.describe_module(language_module(grid))
    ends = {"first": 0, "last": grid.pp - 1}
    layers = description.num_layers // grid.pp
    return sum(
        weights.num_parameters // math.prod(getattr(grid, size) for size in weights.sharded_over)
        for weights in description.parameters
        if stage
        == (ends[weights.layer] if isinstance(weights.layer, str) else weights.layer // layers)
    )


def test_two_pipeline_stages(two_ranks: list[dict[str, Any]]) -> None:
    for result in two_ranks:
        assert result["stages"]["layers"] == 2
        assert result["stages"]["losses"] < TOLERANCE
