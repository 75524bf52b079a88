"""The tower in dynamic resolution, on a rank of its own.

fp32 throughout: packed and padded attention are different kernels, and sums run in other orders.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mimo_core.testing import run_ranks

RANK_FUNCTIONS = Path(__file__).with_name("ranks_dynamic.py")


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return run_ranks(f"{RANK_FUNCTIONS}:one_rank")[0]


def test_square_of_the_fixed_size_gives_the_same_rows_as_in_fixed_resolution(
    facts: dict[str, Any],
) -> None:
    squares = facts["squares"]
    assert squares["size"] > 1
    assert squares["rows"] < 1e-5 * squares["size"]
    assert squares["gradients"] < 1e-4


def test_packed_pictures_do_not_see_each_other(facts: dict[str, Any]) -> None:
    apart = facts["apart"]
    assert apart["count"] == 6 + 1 + 5 + 6
    assert apart["rows"] < 1e-5
    assert apart["gradients"] < 1e-4


def test_features_and_gradients_equal_transformers(facts: dict[str, Any]) -> None:
    """Pictures as large as the position grid, wide, tall, taller and wider than the grid."""
    reference = facts["reference"]
    assert reference["size"] > 1
    assert len(reference["gaps"]) == 5
    assert max(reference["gaps"]) < 1e-5 * reference["size"], reference["gaps"]
    wrong = {name: gap for name, gap in reference["gradients"].items() if not gap < 1e-5}
    assert wrong == {}


def test_every_picture_has_a_position_crop_of_its_own(facts: dict[str, Any]) -> None:
    assert facts["crop"]["training"] > 0.01
    assert facts["crop"]["evaluation"] < 1e-5


def test_recomputed_activations_give_the_same_gradients(facts: dict[str, Any]) -> None:
    assert facts["recomputed"] < 1e-5
