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


VARIANTS = (
    "affine, shuffled",
    "mlp",
    "class tokens kept",
    "no class tokens",
    "affine, norm",
    "mlp, norm, no biases",
    "dynamic",
    "dynamic, class tokens kept",
    "dynamic, no class tokens",
)
RESOLUTIONS = ("fixed", "dynamic")


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


def test_the_weight_map_names_all_that_is_in_the_checkpoint(variant: dict[str, Any]) -> None:
    assert variant["unnamed"] == []


def test_every_parameter_is_in_the_checkpoint(variant: dict[str, Any]) -> None:
    assert variant["unsaved"] == []


def test_bf16_pictures_are_cast_to_the_models_precision(facts: dict[str, Any]) -> None:
    assert facts["bf16"] == ["torch.bfloat16"] * 2


def test_config_is_readable_outside_the_grid(facts: dict[str, Any]) -> None:
    assert facts["outside"] == 16


def test_owned_fields_are_fields_of_megatrons_config(facts: dict[str, Any]) -> None:
    assert facts["unknown_fields"] == []


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


@pytest.mark.parametrize("resolution", RESOLUTIONS)
@pytest.mark.parametrize("option", ["crop", "dropout"])
def test_crop_and_dropout_are_drawn_in_training_only(
    facts: dict[str, Any], resolution: str, option: str
) -> None:
    assert facts["noise"][resolution][option] == {"training": True, "evaluation": False}


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_without_them_training_is_deterministic(facts: dict[str, Any], resolution: str) -> None:
    assert facts["noise"][resolution]["still"] == {"training": False, "evaluation": False}


@pytest.mark.parametrize(("case", "side"), list(enumerate((16, 32, 48))))
def test_features_and_gradients_equal_transformers(
    facts: dict[str, Any], case: int, side: int
) -> None:
    """Pictures smaller than, as large as and larger than the position grid (side 32).

    fp32: the two differ in the order of sums only (fused qkv, bias added apart).
    """
    reference = facts["reference"][case]
    assert reference["size"] > 1
    assert max(reference["gaps"]) < 1e-5 * reference["size"], side
    assert len(reference["gradients"]) == 3 + 2 * 12
    wrong = {name: gap for name, gap in reference["gradients"].items() if not gap < 1e-5}
    assert wrong == {}
