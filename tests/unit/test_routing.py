"""Routes of the bridge: what one side of an edge sends, the other side waits for, and no more."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import product
from math import lcm

import pytest

from mimo_core.contract import LANGUAGE, Grid
from mimo_core.distributed.routing import (
    EdgeRouting,
    PeerTransfer,
    bridge_ranks,
    route_edge,
    sample_slice,
)
from mimo_core.planning.rank_layout import Layout, plan_layout

ENCODERS = [Grid(tp=tp, dp=dp, pp=pp) for tp, dp, pp in product(range(1, 5), repeat=3)]
LANGUAGES = [Grid(tp=tp, cp=cp, dp=dp, pp=pp) for tp, cp, dp, pp in product(range(1, 3), repeat=4)]

Message = tuple[int, int, tuple[int, ...]]
"""Sender, receiver, samples of the microbatch."""


class Edge:
    """All ranks' routes over one edge, told in samples of the whole microbatch."""

    def __init__(self, layout: Layout, microbatch: int, encoder: str = "vision") -> None:
        self.layout, self.encoder, self.microbatch = layout, encoder, microbatch
        self.routes = {
            rank: route_edge(encoder, layout, microbatch, rank) for rank in range(layout.world_size)
        }

    def messages(self, side: str, direction: str, sends: bool) -> list[Message]:
        found = []
        for rank in self.layout.ranks(side):
            own = self.own_samples(rank, side)
            for leg in getattr(self.routes[rank], direction):
                pair = (rank, leg.peer) if sends else (leg.peer, rank)
                found.append((*pair, own[leg.begin : leg.end]))
        return found

    def own_samples(self, rank: int, module: str) -> tuple[int, ...]:
        dp = self.layout.grids[module].dp
        at = self.layout.coordinates(rank, module)["dp"]
        return tuple(range(*sample_slice(self.microbatch, dp, at)))


def edges(language: Grid):
    """Edges of every encoder grid to this language model, two microbatch sizes each."""
    for grid in ENCODERS:
        layout = plan_layout({"vision": grid, LANGUAGE: language})
        for samples in (1, 2):
            yield Edge(layout, samples * lcm(grid.dp, language.dp))


@pytest.mark.parametrize(
    "language", LANGUAGES, ids=lambda grid: f"{grid.tp}{grid.cp}{grid.dp}{grid.pp}"
)
def test_both_sides_agree_on_every_message_and_each_sample_comes_once(language):
    for edge in edges(language):
        talking = check(edge)
        assert bridge_ranks(edge.layout) == sorted(talking), edge.layout


def check(edge: Edge) -> set[int]:
    """Every row and every gradient comes, once; gives the ranks that send or receive."""
    layout = edge.layout
    forward = edge.messages(edge.encoder, "forward", sends=True)
    backward = edge.messages(edge.encoder, "backward", sends=False)
    assert sorted(forward) == sorted(edge.messages(LANGUAGE, "forward", sends=False)), layout
    assert sorted(backward) == sorted(edge.messages(LANGUAGE, "backward", sends=True)), layout
    for messages in (forward, backward):
        # One message a pair and direction: no order between two to get wrong.
        assert max(Counter(message[:2] for message in messages).values()) == 1
    _rows_arrive_once(edge, forward)
    _gradients_arrive_once_from_each_shard(edge, backward)
    _holders_share_the_work(edge, forward)
    return {rank for message in forward + backward for rank in message[:2]}


def _rows_arrive_once(edge: Edge, forward: list[Message]) -> None:
    for rank in edge.layout.ranks(LANGUAGE):
        arrived = [sample for _, to, samples in forward if to == rank for sample in samples]
        first = edge.layout.coordinates(rank, LANGUAGE)["pp"] == 0
        assert sorted(arrived) == (list(edge.own_samples(rank, LANGUAGE)) if first else [])
        # In the order of its legs they are in the order of the samples, ready to be joined.
        legs = edge.routes[rank].forward
        assert [leg.end for leg in legs[:-1]] == [leg.begin for leg in legs[1:]]


def _gradients_arrive_once_from_each_shard(edge: Edge, backward: list[Message]) -> None:
    layout = edge.layout
    arrived: dict[tuple[int, int], list[int]] = defaultdict(list)
    for sender, to, samples in backward:
        at = layout.coordinates(sender, LANGUAGE)
        assert set(samples) <= set(edge.own_samples(sender, LANGUAGE))
        for sample in samples:
            arrived[to, sample].append(at["cp"])
    last = layout.grids[edge.encoder].pp - 1
    expected = {
        (rank, sample)
        for rank in layout.ranks(edge.encoder)
        if layout.coordinates(rank, edge.encoder)["pp"] == last
        for sample in edge.own_samples(rank, edge.encoder)
    }
    assert set(arrived) == expected, layout
    shards = list(range(layout.grids[LANGUAGE].cp))
    assert all(sorted(senders) == shards for senders in arrived.values()), layout


def _holders_share_the_work(edge: Edge, forward: list[Message]) -> None:
    """Of one encoder replica's messages to one replica of the language model."""
    layout, grid = edge.layout, edge.layout.grids[edge.encoder]
    sent: dict[tuple[int, int], Counter[int]] = defaultdict(Counter)
    for sender, to, _ in forward:
        at = layout.coordinates(sender, edge.encoder)
        sent[at["dp"], layout.coordinates(to, LANGUAGE)["dp"]][at["tp"]] += 1
    for counts in sent.values():
        loads = [counts[tp] for tp in range(grid.tp)]
        assert max(loads) - min(loads) <= 1, (layout, loads)


def test_two_encoder_replicas_feed_one_language_replica():
    layout = plan_layout({"vision": Grid(dp=2), LANGUAGE: Grid(tp=2)})
    assert route_edge("vision", layout, 4, 1) == EdgeRouting(
        encoder="vision",
        forward=(PeerTransfer(peer=2, begin=0, end=2), PeerTransfer(peer=3, begin=0, end=2)),
        backward=(PeerTransfer(peer=2, begin=0, end=2),),
    )
    assert route_edge("vision", layout, 4, 2) == EdgeRouting(
        encoder="vision",
        forward=(PeerTransfer(peer=0, begin=0, end=2), PeerTransfer(peer=1, begin=2, end=4)),
        backward=(PeerTransfer(peer=0, begin=0, end=2), PeerTransfer(peer=1, begin=2, end=4)),
    )
    # Gradients are whole on every tensor-parallel rank: the second has none to send.
    assert route_edge("vision", layout, 4, 3).backward == ()


def test_slices_that_do_not_nest_are_cut_where_they_overlap():
    layout = plan_layout({"vision": Grid(dp=3), LANGUAGE: Grid(dp=2)})
    assert route_edge("vision", layout, 6, 1).forward == (
        PeerTransfer(peer=3, begin=0, end=1),
        PeerTransfer(peer=4, begin=1, end=2),
    )
    assert route_edge("vision", layout, 6, 4).forward == (
        PeerTransfer(peer=1, begin=0, end=1),
        PeerTransfer(peer=2, begin=1, end=3),
    )


def test_every_encoder_has_its_own_last_stage_on_the_bridge():
    grids = {"vision": Grid(pp=2, tp=2), LANGUAGE: Grid(pp=2), "audio": Grid(pp=3)}
    layout = plan_layout(grids)
    assert bridge_ranks(layout) == [2, 3, 4, 8]
    outsiders = set(range(layout.world_size)) - {4, 8}
    for rank in outsiders:
        assert route_edge("audio", layout, 1, rank).forward == (), rank
