"""The bridge on real ranks: rows arrive where they belong, gradients come back whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mimo_core.contract import LANGUAGE, Grid
from mimo_core.distributed.routing import sample_slice
from mimo_core.planning.rank_layout import Layout, plan_layout
from mimo_core.testing import run_ranks

from ..helpers.paths import RANK_FUNCTIONS
from .rank_functions.bridge import gradient_of, rows_of

LAYOUTS: dict[str, dict[str, Any]] = {
    # Two encoder replicas to one language replica split over tensors and context; uneven samples,
    # an empty one, a microbatch where one replica has nothing, one where nobody has anything.
    "fan in": {
        "grids": {"vision": {"dp": 2}, LANGUAGE: {"tp": 2, "cp": 2}},
        "counts": {"vision": [[1, 2, 3, 0], [0, 0, 4, 1], [0, 0, 0, 0], [2, 0, 0, 5]]},
    },
    "fan out": {
        "grids": {"vision": {"tp": 2}, LANGUAGE: {"tp": 2, "dp": 2}},
        "counts": {"vision": [[3, 1], [0, 2], [4, 0]]},
        "dtype": "bfloat16",
    },
    # Slices of two and of three replicas that do not nest, beside an encoder that does not learn.
    "three ways": {
        "grids": {"audio": {}, "vision": {"dp": 2}, LANGUAGE: {"dp": 3}},
        "counts": {
            "audio": [[2, 0, 1, 1, 0, 3], [1] * 6],
            "vision": [[1, 0, 2, 3, 1, 1], [0, 0, 0, 2, 2, 0]],
        },
        "silent": ["audio"],
    },
    # Two tensor-parallel holders beside inner pipeline stages, which only make the group.
    "stages": {
        "grids": {"vision": {"pp": 2, "tp": 2}, LANGUAGE: {"pp": 2}},
        "counts": {"vision": [[2, 1]]},
    },
    "all frozen": {
        "grids": {"vision": {"dp": 2}, LANGUAGE: {"cp": 4}},
        "counts": {"vision": [[1, 2], [2, 1]]},
        "silent": ["vision"],
    },
}


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    """What every one of six ranks saw of every layout: one launch."""
    file = RANK_FUNCTIONS / "bridge.py"
    return run_ranks(f"{file}:everything", ranks=6, timeout=1800, layouts=LAYOUTS)


def layout_of(name: str) -> Layout:
    return plan_layout({key: Grid(**sizes) for key, sizes in LAYOUTS[name]["grids"].items()})


def bridging(name: str, module: str):
    """(world rank, coordinates) of a module's ranks at the bridge."""
    layout = layout_of(name)
    end = 0 if module == LANGUAGE else layout.grids[module].pp - 1
    for rank in layout.ranks(module):
        at = layout.coordinates(rank, module)
        if at["pp"] == end:
            yield rank, at


def expected_rows(name: str, encoder: str, module: str, dp: int) -> list[torch.Tensor]:
    """Rows by microbatch of the samples that a replica of ``module`` holds."""
    all_counts = LAYOUTS[name]["counts"][encoder]
    own = sample_slice(len(all_counts[0]), layout_of(name).grids[module].dp, dp)
    return [rows_of(encoder, k, counts, *own) for k, counts in enumerate(all_counts)]


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_language_rank_gets_the_rows_of_its_samples_in_order(ranks, name):
    checked = 0
    for encoder in LAYOUTS[name]["counts"]:
        for rank, at in bridging(name, LANGUAGE):
            rows = expected_rows(name, encoder, LANGUAGE, at["dp"])
            assert ranks[rank][name][encoder] == [tensor.tolist() for tensor in rows], rank
            checked += 1
    assert checked


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_encoder_rank_gets_its_samples_gradient_from_each_context_shard(ranks, name):
    shards = layout_of(name).grids[LANGUAGE].cp
    silent = LAYOUTS[name].get("silent", [])
    for encoder in LAYOUTS[name]["counts"]:
        for rank, at in bridging(name, encoder):
            arrived = ranks[rank][name][encoder]
            if encoder in silent:
                assert arrived == []
                continue
            rows = expected_rows(name, encoder, encoder, at["dp"])
            for received, row in zip(arrived, rows, strict=True):
                parts = torch.tensor(received).reshape(shards, *row.shape)
                whole = sum(gradient_of(row, shard) for shard in range(shards))
                assert torch.equal(parts.sum(0), whole), (rank, received)


def test_a_frozen_encoder_costs_no_message_back(ranks):
    assert [ranks[rank]["all frozen"]["messages back"] for rank in (2, 3, 4, 5)] == [0] * 4
    # Beside one that learns, only that one is written to: one message for each overlap.
    assert [ranks[rank]["three ways"]["messages back"] for rank in (3, 4, 5)] == [0, 1, 1]


def test_rows_travel_in_the_precision_of_the_run(ranks):
    assert ranks[2]["fan out"]["dtypes"] == ["torch.bfloat16"]
    assert ranks[2]["fan in"]["dtypes"] == ["torch.float32"]


def test_a_tower_that_puts_out_other_rows_than_described_is_told_so(ranks):
    for rank in (0, 1):
        said = ranks[rank]["errors"]
        assert said["rows"] == (
            "module 'vision' put out rows of shape [9, 3], expected [3, 3]: by hook "
            "'describe_module' (count_positions) its samples take [1, 2] positions, and the "
            "language model is 3 wide; the "
            "tower and the projector of hook 'build_submodule' must put out the same, or "
            "'describe_module' must say what they put out [plugin.wrong-rows]"
        )
        assert "rows of shape [3, 4], expected [3, 3]" in said["width"]
