"""The encoder over pipeline stages: what it computes, and its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mimo_core.testing import run_ranks

pytestmark = pytest.mark.long

RANK_FUNCTIONS = Path(__file__).with_name("ranks_stages.py")
CASES = [
    f"{resolution}, {grid}"
    for resolution in ("fixed", "dynamic")
    for grid in ("pp 2", "tp 2 x pp 2", "pp 4")
]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = str(tmp_path_factory.mktemp("checkpoints"))
    return run_ranks(f"{RANK_FUNCTIONS}:stages", ranks=4, folder=folder)


@pytest.mark.parametrize("case", CASES)
def test_stages_give_the_rows_and_gradients_of_one_rank(
    ranks: list[dict[str, Any]], case: str
) -> None:
    """Of the same weights, read from a checkpoint of one rank, up to the order of sums in fp32."""
    found = [rank[case] for rank in ranks]
    gaps = [rank["rows"] for rank in found if rank["rows"] is not None]
    assert gaps and max(gaps) < 1e-5
    for rank in found:
        assert {name: gap for name, gap in rank["gradients"].items() if gap > 1e-4} == {}
    assert sorted({name for rank in found for name in rank["held"]}) == found[0]["all"]
    assert all(len(rank["held"]) < len(rank["all"]) for rank in found)


@pytest.mark.parametrize("case", CASES)
def test_a_microbatch_without_pictures_passes_all_stages(
    ranks: list[dict[str, Any]], case: str
) -> None:
    """No rows for the language model, and no gradient."""
    found = [rank[case] for rank in ranks]
    assert all(rank["zeros"] for rank in found)
    assert {tuple(rank["empty"]) for rank in found if rank["empty"] is not None} == {(0, 24)}


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_of_stages_is_that_of_one_rank(ranks: list[dict[str, Any]], case: str) -> None:
    """Saved over stages and loaded without: every weight to the last bit."""
    assert all(rank[case]["returned"] == [] for rank in ranks)
