"""Routers count the positions of samples; their losses weigh what the recipe says."""

from __future__ import annotations

from typing import Any

import pytest

from mimo_core.testing import run_ranks

from ..helpers.paths import RANK_FUNCTIONS, RECIPES

RANKS = RANK_FUNCTIONS / "routers.py"

# float32 products of six features, summed over at most 48 positions: a random walk of some 2**8
# roundings of 2**-24.
FP32 = 2e-5


@pytest.fixture(scope="module")
def losses() -> dict[str, dict[str, float]]:
    """The largest distance of any rank."""
    ranks = run_ranks(f"{RANKS}:losses", ranks=4)
    return {
        layout: {kind: max(rank[layout][kind] for rank in ranks) for kind in kinds}
        for layout, kinds in ranks[0].items()
    }


@pytest.mark.parametrize("kind", ["aux_loss", "seq_aux_loss", "z", "recomputed"])
@pytest.mark.parametrize("layout", ["dp 2 (twice)", "tp 2, dp 2", "cp 2, dp 2", "tp 2, cp 2"])
def test_a_loss_of_routers_is_the_mean_over_own_positions_of_microbatches_and_ranks(
    losses: dict[str, dict[str, float]], layout: str, kind: str
) -> None:
    """Whatever is learned; an infinite distance says that tokens were counted wrongly."""
    assert losses[layout][kind] < FP32


def test_capacity_is_that_of_own_positions_and_no_padding_takes_a_place() -> None:
    (found,) = run_ranks(f"{RANKS}:capacity")
    assert found == {
        name: [[0, 0], True] for name in ("probs", "probs, filled", "position", "position, filled")
    }


MODELS = {
    "gpt": {
        "options": "{hidden_size: 32, layers: 2, attention_heads: 4, experts: 4, "
        "expert_ffn_hidden_size: 16, router_aux_loss: 0.05}",
        "megatron": "{moe_z_loss_coeff: 0.05}",
    },
    "nemotron": {
        "options": "{pattern: 'M*E', hidden_size: 32, attention_heads: 4, mamba_heads: 4, "
        "mamba_head_dim: 16, mamba_state: 8, mamba_groups: 2, experts: 4, experts_per_token: 2, "
        "expert_ffn_hidden_size: 16, shared_expert_ffn_hidden_size: 16, router_bias: true, "
        "router_aux_loss: 0.05}",
        "megatron": "{moe_z_loss_coeff: 0.05}",
    },
}
LONGER = "train.sequence_length=57"
CAPACITY = ("modules.language.megatron={moe_z_loss_coeff: 0.05, moe_expert_capacity_factor: 0.8}",)
GROUPS = {
    "all losses": {"first": (), "longer": (LONGER,), "packed": ("modules.language.packing=true",)},
    "with a capacity": {"first": CAPACITY, "longer": (*CAPACITY, LONGER)},
    "bf16": {"first": ("train.precision=bf16",), "longer": ("train.precision=bf16", LONGER)},
    "adapters": {
        "first": ("modules.language.wrappers={lora: {rank: 2, targets: ['*.linear_qkv']}}",)
    },
    "frozen": {"first": ("modules.language.freeze=[language]",)},
}

# Sums of the same products in another order, through three layers: mimo verify's bound for a
# gradient (mimo_core/verify/compare.py).
ORDER = 2**11 * 2.0**-24


@pytest.fixture(scope="module", params=MODELS)
def steps(request: pytest.FixtureRequest) -> dict[str, Any]:
    model = [f"modules.language.{key}={value}" for key, value in MODELS[request.param].items()]
    base = [
        "placement=colocated",
        f"modules.language.plugin={request.param}",
        *model,
        "train.global_batch_size=8",
        "train.iterations=1",
        "validation.num_samples=8",
    ]
    (found,) = run_ranks(
        f"{RANKS}:step",
        recipe=str(RECIPES / "tiny.yaml"),
        groups={
            group: {name: [*base, *more] for name, more in variants.items()}
            for group, variants in GROUPS.items()
        },
    )
    return found  # type: ignore[no-any-return]


@pytest.mark.parametrize("group", ["all losses", "with a capacity"])
def test_no_number_of_a_step_follows_padding(steps: dict[str, Any], group: str) -> None:
    """Loss, gradient of each parameter, tokens counted, biases and evaluation."""
    for name, numbers in steps[group]["differences"].items():
        apart = {key: gap for key, gap in numbers.items() if gap > ORDER}
        assert apart == {}, name
    assert not [key for key in steps[group]["zeros"] if key.startswith("gradient of language")]


def test_tokens_are_counted_in_float32_in_a_bf16_model(steps: dict[str, Any]) -> None:
    """As many as in float32, whose integers are exact up to 2**24."""
    kept, exact = (steps[group]["buffers"] for group in ("bf16", "all losses"))
    assert list(kept.values()) == list(exact.values())
    assert {kind for kind, _ in kept.values()} <= {"torch.float32"}
    moved = steps["bf16"]["differences"]["longer"]
    assert {name: moved[name] for name in kept} == dict.fromkeys(kept, 0.0)


@pytest.mark.parametrize("group", ["adapters", "frozen"])
def test_a_router_that_does_not_learn_keeps_its_bias(steps: dict[str, Any], group: str) -> None:
    """Below adapters and in a frozen language model. It counts no tokens; one that learns moves."""
    buffers = steps[group]["buffers"]
    assert buffers.keys() <= set(steps[group]["zeros"])
    assert buffers.keys().isdisjoint(steps["all losses"]["zeros"])
