"""Ranks of modules: tiling, coordinates, and what is refused."""

from __future__ import annotations

import itertools

import pytest

from mimo_core import Grid
from mimo_core.errors import LayoutError
from mimo_core.planning.rank_layout import plan_layout

GRIDS = {"vision": Grid(dp=3), "language": Grid(tp=2, cp=2, dp=2, pp=2, ep=4)}


def test_modules_follow_each_other_in_the_given_order():
    layout = plan_layout(GRIDS, world_size=19)
    assert layout.world_size == 19
    assert layout.ranks("vision") == range(3)
    assert layout.ranks("language") == range(3, 19)
    assert [layout.module_of(rank) for rank in (0, 2, 3, 18)] == [
        "vision",
        "vision",
        "language",
        "language",
    ]
    assert layout.modules_on_rank(2) == ("vision",)


def test_first_rank_moves_a_module():
    layout = plan_layout(
        {"vision": Grid(dp=2, rank_offset=4), "language": Grid(tp=4, rank_offset=0)}
    )
    assert layout.ranks("vision") == range(4, 6)
    assert layout.ranks("language") == range(4)


def test_coordinates_count_tp_fastest_and_pp_slowest_and_come_back():
    layout = plan_layout(GRIDS)
    seen = []
    for pp, dp, cp, tp in itertools.product(range(2), repeat=4):
        rank = layout.rank_at("language", tp=tp, cp=cp, dp=dp, pp=pp)
        assert layout.coordinates(rank, "language") == {"tp": tp, "cp": cp, "dp": dp, "pp": pp}
        seen.append(rank)
    assert seen == list(range(3, 19))


@pytest.mark.parametrize(
    ("rank", "label"),
    [
        (1, "rank 1 (vision, dp 1)"),
        (3, "rank 3 (language, tp 0, cp 0, dp 0, pp 0)"),
        (18, "rank 18 (language, tp 1, cp 1, dp 1, pp 1)"),
    ],
)
def test_a_label_has_the_coordinates_that_matter(rank, label):
    assert plan_layout(GRIDS).rank_label(rank) == label


def test_colocated_puts_all_on_the_one_rank():
    layout = plan_layout({"vision": Grid(), "language": Grid()}, "colocated", 1)
    assert layout.world_size == 1
    assert layout.modules_on_rank(0) == ("vision", "language")
    assert layout.rank_label(0) == "rank 0 (vision, language)"


@pytest.mark.parametrize(
    ("grids", "kind", "world_size", "said"),
    [
        (
            {"vision": Grid(dp=2), "language": Grid(dp=2, rank_offset=3)},
            "non_colocated",
            None,
            r"tile ranks 0 .. 4:\n  vision    ranks 0..1  \(dp 2\)\n  language  ranks 3..4 .*\n"
            r"rank 2 belongs to no module: set modules.language.grid.rank_offset=2 or leave it out",
        ),
        (
            {"vision": Grid(dp=3), "language": Grid(dp=3, rank_offset=1)},
            "non_colocated",
            None,
            r"ranks 1..2 belong to both vision and language: set modules.language.grid.rank_o",
        ),
        (
            {"vision": Grid(dp=2, rank_offset=1)},
            "non_colocated",
            None,
            r"rank 0 belongs to no module: set modules.vision.grid.rank_offset=0",
        ),
        (
            {"a": Grid(dp=6), "b": Grid(rank_offset=1), "language": Grid(rank_offset=2)},
            "non_colocated",
            None,
            r"rank 1 belongs to both a and b(.|\n)*rank 2 belongs to both a and language",
        ),
        (GRIDS, "non_colocated", 8, r"needs 19 ranks, but 8 were started. Start 19 \(torchrun"),
        (
            {"language": Grid(dp=2)},
            "colocated",
            None,
            "one rank, but language has dp 2; .*non_colocated",
        ),
        ({"language": Grid()}, "colocated", 2, "one rank, but 2 were started"),
        ({"language": Grid(rank_offset=1)}, "colocated", None, "has rank 0 only"),
        (
            {"language": Grid(tp=2, dp=3, ep=4)},
            "non_colocated",
            None,
            "tp 2 x cp 1 x dp 3 = 6 ranks .* etp 1 x ep 4 = 4",
        ),
        ({"language": Grid(dp=2, ep=2, etp=2)}, "non_colocated", None, "etp 2 x ep 2 = 4"),
    ],
)
def test_refused_with_the_reason_and_the_way_out(grids, kind, world_size, said):
    with pytest.raises(LayoutError, match=said):
        plan_layout(grids, kind, world_size)
