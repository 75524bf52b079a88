"""The container of an encoder: the default projector, and nothing left out of checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mimo_core.testing import run_ranks


@pytest.fixture(scope="module")
def contained() -> list[dict[str, Any]]:
    return run_ranks(f"{Path(__file__).parent / 'ranks_containers.py'}:contain", ranks=2)


def test_the_default_projector_gives_whole_rows_on_every_rank(
    contained: list[dict[str, Any]],
) -> None:
    for rank in contained:
        assert rank["shape"] == [10, 8]
        assert rank["rows"] == contained[0]["rows"]
        assert rank["gradients"]
        assert not rank["view"], "the schedule frees what was sent, and refuses views"


def test_a_parameter_that_the_checkpoint_would_lose_is_an_error(
    contained: list[dict[str, Any]],
) -> None:
    assert contained[0]["saved"] >= contained[0]["parameters"] > 0
    assert "the checkpoint would not hold" in contained[0]["said"]
    assert "encoders.tower.linear.weight" in contained[0]["said"]


def test_what_cannot_pass_between_stages_is_an_error_before_it_is_sent(
    contained: list[dict[str, Any]],
) -> None:
    for rank in contained:
        assert rank["hidden"] == [2, 5, 6]
        assert "Tower put out [5, 6] in torch.float32 on a pipeline stage before" in rank["flat"]
        for said in rank["apart"]:
            assert "one pipeline stage has a batch and another has none" in said
