"""Layers of experts whose products are one kernel, against core's layer."""

from __future__ import annotations

from mimo_core.testing import run_ranks

from ..helpers.paths import RANK_FUNCTIONS


def test_experts_are_cores_wherever_they_are() -> None:
    """On one rank or over two, gated or not: to the last bit, as torch multiplies group by group on
    CPUs. Where all experts are on a rank, no number of tokens goes to the host. In Megatron's
    buffers, two microbatches add up to twice one's gradients."""
    path = RANK_FUNCTIONS / "grouped_experts.py"
    equal = {"output": True, "of tokens": True, "of weights": True, "in buffers": [True] * 3}
    for found in run_ranks(f"{path}:compare", ranks=2):
        for activation in ("squared_relu", "silu"):
            assert found[f"alone, {activation}"] == {**equal, "told": [True, False]}
            assert found[f"spread, {activation}"] == {**equal, "told": [True, True]}


def test_few_ranks_gather_tokens_and_compute_what_the_exchange_does() -> None:
    """Outputs and gradients within bf16's roundings of core's all-to-all (2**-8 each, a handful of
    them: each rank's sum is rounded before the ranks' are added), also where no token chooses any
    expert of a rank. What does not gather: ranks whose numbers of tokens may differ, ranks beyond
    a token's experts, a shared expert that the dispatcher is to compute meanwhile, and one rank."""
    path = RANK_FUNCTIONS / "grouped_experts.py"
    first, second = run_ranks(f"{path}:gather", ranks=2)
    kinds = ("packed", "one expert a token", "overlapped", "alone")
    for found in (first, second):
        assert "does not support variable sequence length" in found["core's own"]
        assert found["otherwise"] == dict.fromkeys(kinds, "DeviceCounts")
        assert found["all"]["apart"] < 2**-5
        assert found["one rank's"]["apart"] < 2**-5
    assert all(count > 0 for count in first["all"]["counts"] + second["all"]["counts"])
    assert first["one rank's"]["counts"] == [48, 48]
    assert second["one rank's"]["counts"] == [0, 0]


def test_what_a_recipe_may_set_is_computed_as_by_core() -> None:
    """A shared expert is added also where the dispatcher computes it. The weights' order, in which
    optimizer states may be saved, does not depend on what computes them."""
    path = RANK_FUNCTIONS / "grouped_experts.py"
    (found,) = run_ranks(f"{path}:settings", ranks=1)
    order = [f"weight{number}" for number in (3, 2, 1, 0)]
    assert found == {
        "shared": {"equal": True, "in one kernel": True, "order": order},
        "overlapped": {"equal": True, "in one kernel": True, "order": order},
        "interleaved": {"equal": True, "in one kernel": False, "order": order},
        "on CPUs": {"equal": True},
    }
