"""The tower and its projectors, on ranks of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mimo_core.testing import run_ranks

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return run_ranks(f"{HERE / 'whisper_ranks.py'}:one_rank")[0]


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return run_ranks(f"{HERE / 'whisper_ranks_parallel.py'}:two_ranks", ranks=2)


VARIANTS = ("affine", "stacked, no bias", "padded, mlp", "windows of 160 ms, mlp, no bias")


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
    assert variant["zero_gradient"] == []


def test_weight_map_and_checkpoint_hold_all_there_is(variant: dict[str, Any]) -> None:
    assert variant["unnamed"] == []
    assert variant["unsaved"] == []


def test_bf16_frames_are_cast_to_the_models_precision(facts: dict[str, Any]) -> None:
    assert facts["bf16"] == "torch.bfloat16"


def test_config_is_readable_outside_the_grid(facts: dict[str, Any]) -> None:
    assert facts["outside"] == 16
    assert facts["unknown_fields"] == []


def test_windows_together_equal_each_alone(facts: dict[str, Any]) -> None:
    """fp32 sums of convolutions in batches of another size."""
    assert facts["alone"] < 1e-5


def test_stacked_rows_are_neighbouring_positions(facts: dict[str, Any]) -> None:
    assert facts["stacked"]


def test_dropout_is_drawn_in_training_only(facts: dict[str, Any]) -> None:
    assert facts["noise"]["0.5"] == {"training": True, "evaluation": False}
    assert facts["noise"]["0.0"] == {"training": False, "evaluation": False}


@pytest.mark.parametrize(("case", "windows"), list(enumerate(("whole", "short"))))
def test_features_and_gradients_equal_transformers(
    facts: dict[str, Any], case: int, windows: str
) -> None:
    """fp32: the two differ in the order of sums only (fused qkv, bias added apart)."""
    reference = facts["reference"][case]
    assert reference["size"] > 1
    assert max(reference["gaps"]) < 1e-5 * reference["size"], windows
    assert len(reference["gradients"]) == 6 + 2 * 15
    wrong = {name: gap for name, gap in reference["gradients"].items() if not gap < 1e-5}
    assert wrong == {}


def test_what_was_read_is_exported_bit_for_bit(facts: dict[str, Any]) -> None:
    """Keys without a bias among it: no name of one is written."""
    assert [reference["exported"] for reference in facts["reference"]] == [[], []]


@pytest.mark.parametrize(("case", "projector"), list(enumerate(("affine", "mlp"))))
def test_tp_2_equals_one_rank(ranks: list[dict[str, Any]], case: int, projector: str) -> None:
    """Same weights: output and gradients up to the order of sums in fp32."""
    for rank in ranks:
        compared = rank["tp"][case]
        assert compared["output"] < 1e-5, projector
        assert {name: gap for name, gap in compared["gradients"].items() if gap > 1e-4} == {}
        assert compared["wrongly_saved"] == []
        assert rank["held"][case]["held"] == rank["held"][case]["described"]


def test_pp_2_equals_one_rank(ranks: list[dict[str, Any]]) -> None:
    gradients = ranks[0]["pp"]["gradients"] | ranks[1]["pp"]["gradients"]
    assert sorted(gradients) == ranks[0]["pp"]["all"]
    assert {name: gap for name, gap in gradients.items() if gap > 1e-4} == {}
    assert ranks[1]["pp"]["output"] < 1e-5
