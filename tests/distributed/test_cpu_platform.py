"""The CUDA stand-in: megatron's modules see a GPU, everything else sees the truth."""

from __future__ import annotations

from typing import Any

import pytest

from .rank_functions.cpu_platform import launch


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    """What rank 0 of a launch tells of its platform."""
    return launch()[0]["platform"]


@pytest.mark.parametrize("where", ["inside", "in a thread"])
def test_megatrons_modules_see_a_gpu_that_is_the_cpu(facts, where):
    inside = facts["inside"] if where == "inside" else facts["threads"][0]
    assert inside["available"] == [True] * 4
    for call in ("zeros", "arange", "current", "pinned", "to", "cuda", "module"):
        assert inside[call] == "cpu", call
    assert inside["to dtype"] == "torch.bfloat16"
    assert inside["type"] == "torch.cuda.FloatTensor"
    assert inside["bf16 type"] == "torch.cuda.BFloat16Tensor"
    assert facts["stock module"] is True


@pytest.mark.parametrize("where", ["before", "outside", "in a thread"])
def test_everything_else_finds_no_gpu(facts, where):
    """Before megatron is imported, afterwards, and in a thread beside one of megatron's."""
    outside = facts["threads"][1] if where == "in a thread" else facts[where]
    assert outside["available"] == [False] * 4
    for call in ("zeros", "arange", "to", "to dtype", "cuda", "module"):
        assert "Error: " in outside[call], (call, outside[call])
    assert outside["type"] == "torch.FloatTensor"
    assert outside["bf16 type"] == "torch.BFloat16Tensor"


def test_what_is_the_same_on_both_machines_stays_the_same(facts):
    for where in ("before", "inside", "outside"):
        told = facts[where]
        assert (told["cast"], told["plain"]) == ("torch.float64", "torch.float64")
        assert (told["isinstance"], told["functional"]) == (True, 1.0)


def test_transformers_does_not_believe_in_a_gpu(facts):
    assert facts["transformers"] is False


def test_installing_it_after_megatron_says_what_to_do(facts):
    said = facts["too late"]
    assert said.endswith(" [platform.megatron-imported]")
    assert "import megatron inside functions" in said


def test_installing_it_twice_changes_nothing(facts):
    assert facts["installed once"] is True
