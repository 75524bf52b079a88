"""The tower and its projectors, on ranks of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mimo_core.testing import run_ranks

RANK_FUNCTIONS = Path(__file__).with_name("rank_functions.py")


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return run_ranks(f"{RANK_FUNCTIONS}:one_rank")[0]


@pytest.fixture(scope="module")
def tensor_parallel() -> list[list[dict[str, Any]]]:
    return run_ranks(f"{RANK_FUNCTIONS}:tensor_parallel", ranks=2)


VARIANTS = ("affine, shuffled", "mlp", "class tokens kept", "no class tokens")


@pytest.fixture(params=range(len(VARIANTS)), ids=VARIANTS)
def variant(request: pytest.FixtureRequest, facts: dict[str, Any]) -> dict[str, Any]:
    assert len(facts["variants"]) == len(VARIANTS)
    return facts["variants"][request.param]


def test_rows_are_as_described(variant: dict[str, Any]) -> None:
    assert variant["rows"] == variant["expected_rows"]
    assert variant["projected"] == [variant["rows"][0], 24]


def test_description_counts_every_parameter(variant: dict[str, Any]) -> None:
    assert variant["parameters"] == variant["described"]


def test_every_parameter_gets_a_gradient(variant: dict[str, Any]) -> None:
    assert variant["without_gradient"] == []
    assert variant["zero_gradient"] == []


def test_every_parameter_is_in_the_checkpoint(variant: dict[str, Any]) -> None:
    assert variant["unsaved"] == []


def test_bf16_pictures_are_cast_to_the_models_precision(facts: dict[str, Any]) -> None:
    assert facts["bf16"] == "torch.bfloat16"


def test_config_is_readable_outside_the_grid(facts: dict[str, Any]) -> None:
    assert facts["outside"] == 16


def test_patches_are_embedded_with_unit_variance(facts: dict[str, Any]) -> None:
    assert facts["embedding"] == pytest.approx(1, abs=0.15)


def test_rows_come_picture_by_picture(facts: dict[str, Any]) -> None:
    assert facts["rows"] < 1e-5


def test_class_tokens_precede_the_patches_and_can_be_dropped(facts: dict[str, Any]) -> None:
    assert facts["class_tokens"]["patches"] < 1e-6


def test_pixel_shuffle_is_that_of_nemotron_omni(facts: dict[str, Any]) -> None:
    shuffle = facts["shuffle"]
    assert shuffle["shape"] == [2, 6, 20]
    assert shuffle["gap"] == 0
    # Upper left and right patch (rows of 6 patches of 5 features), then the two below them.
    assert shuffle["first"] == [*range(10), *range(30, 40)]


def test_position_crop_is_drawn_in_training_only(facts: dict[str, Any]) -> None:
    assert facts["crop"] == {"training": True, "evaluation": False}


def test_dropout_is_drawn_in_training_only(facts: dict[str, Any]) -> None:
    assert facts["dropout"] == {"training": True, "evaluation": False}


def test_without_crop_and_dropout_training_is_deterministic(facts: dict[str, Any]) -> None:
    assert facts["still"] == {"training": False, "evaluation": False}


@pytest.mark.parametrize(("case", "side"), list(enumerate((16, 32, 48))))
def test_features_equal_transformers(facts: dict[str, Any], case: int, side: int) -> None:
    """Pictures smaller than, as large as and larger than the position grid (side 32).

    fp32: the two differ in the order of sums only (fused qkv, bias added apart).
    """
    reference = facts["reference"][case]
    assert reference["size"] > 1
    assert reference["gap"] < 1e-5 * reference["size"], side


@pytest.mark.parametrize(("case", "projector"), list(enumerate(("affine", "mlp with crops"))))
def test_tp_2_equals_tp_1(
    tensor_parallel: list[list[dict[str, Any]]], case: int, projector: str
) -> None:
    """Same weights, every rank: output and gradients up to the order of sums in fp32."""
    for rank in tensor_parallel:
        compared = rank[case]
        assert compared["shape"] == [8, 24], projector
        assert compared["split"] < 0.7 * compared["whole"]
        assert compared["output"] < 1e-5
        assert {name: gap for name, gap in compared["gradients"].items() if gap > 1e-4} == {}
        assert compared["wrongly_saved"] == []
