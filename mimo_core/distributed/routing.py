"""Who sends which samples to whom over an edge: pure arithmetic on the layout.

A microbatch has ``M = micro_batch_size x language dp`` samples in one global order. Data-parallel
rank ``i`` of a module with ``dp`` of them holds samples ``[i M / dp, (i + 1) M / dp)``. Where two
such slices overlap, rows travel from the encoder's rank to the language model's, and their
gradients back.

Within an encoder's tensor-parallel group every rank holds all rows; within the language model's,
every rank needs them. Each rank that needs rows gets them from one rank that has them, spread over
the holders. Gradients of the rows are whole on every tensor-parallel rank of the language model,
but each context-parallel rank holds only its own positions' part: one rank of each
context-parallel shard sends, and the encoder adds them up.
"""

from __future__ import annotations

from itertools import product

import attrs

from mimo_core.contract import LANGUAGE, Grid
from mimo_core.planning.rank_layout import Layout, sample_slice


@attrs.frozen(kw_only=True)
class PeerTransfer:
    """One peer's part of an edge, seen from one rank."""

    peer: int
    """World rank of the other side."""
    begin: int
    """First sample of the part, counted in this rank's slice of the microbatch."""
    end: int
    """One past the last."""


@attrs.frozen(kw_only=True)
class EdgeRouting:
    """This rank's legs of one edge; the same objects for every microbatch."""

    encoder: str
    forward: tuple[PeerTransfer, ...]
    """Encoder rank: rows to send. Language rank: rows to receive; in sample order, not
    overlapping."""
    backward: tuple[PeerTransfer, ...]
    """Encoder rank: gradients to receive, several of the same samples to be added up. Language
    rank: gradients to send."""


def route_edge(encoder: str, layout: Layout, microbatch: int, rank: int) -> EdgeRouting:
    """The legs of ``rank`` over the edge of ``encoder`` to the language model.

    Args:
        encoder: Name of the edge's source module.
        layout: Where the modules are.
        microbatch: Samples of a microbatch over all data-parallel ranks of the language model.
        rank: World rank to route for; a rank at neither end of the edge gets no legs.
    """
    source, target = layout.grids[encoder], layout.grids[LANGUAGE]
    forward: list[PeerTransfer] = []
    backward: list[PeerTransfer] = []
    if rank in layout.ranks(encoder):
        own = layout.coordinates(rank, encoder)
        begin, end = sample_slice(microbatch, source.dp, own["dp"])
        overlaps = _overlaps(begin, end, microbatch, target.dp)
        at_end = own["pp"] == source.pp - 1
        for dp, low, high in overlaps if at_end else []:
            for cp, tp in product(range(target.cp), range(target.tp)):
                peer = layout.rank_at(LANGUAGE, tp=tp, cp=cp, dp=dp)
                leg = PeerTransfer(peer=peer, begin=low - begin, end=high - begin)
                if _source_tp_rank(tp, cp, source, target) == own["tp"]:
                    forward.append(leg)
                if tp == own["tp"] % target.tp:
                    backward.append(leg)
    elif rank in layout.ranks(LANGUAGE):
        own = layout.coordinates(rank, LANGUAGE)
        begin, end = sample_slice(microbatch, target.dp, own["dp"])
        overlaps = _overlaps(begin, end, microbatch, source.dp)
        at_end = own["pp"] == 0
        for dp, low, high in overlaps if at_end else []:
            for tp in range(source.tp):
                peer = layout.rank_at(encoder, tp=tp, dp=dp, pp=source.pp - 1)
                leg = PeerTransfer(peer=peer, begin=low - begin, end=high - begin)
                if _source_tp_rank(own["tp"], own["cp"], source, target) == tp:
                    forward.append(leg)
                if own["tp"] == tp % target.tp:
                    backward.append(leg)
    return EdgeRouting(encoder=encoder, forward=tuple(forward), backward=tuple(backward))


def bridge_ranks(layout: Layout) -> list[int]:
    """World ranks at the end of any edge: last stages of encoders, the language's first."""
    return [
        rank
        for name, grid in layout.grids.items()
        for rank in layout.ranks(name)
        if layout.coordinates(rank, name)["pp"] == (0 if name == LANGUAGE else grid.pp - 1)
    ]


def _source_tp_rank(tp: int, cp: int, source: Grid, target: Grid) -> int:
    """The encoder's tensor-parallel rank that serves rank (tp, cp) of the language model."""
    return (tp + target.tp * cp) % source.tp


def _overlaps(begin: int, end: int, microbatch: int, dp: int) -> list[tuple[int, int, int]]:
    """``(dp rank, low, high)`` where ``[begin, end)`` overlaps the slices of ``dp`` ranks."""
    found = []
    for rank in range(dp):
        low, high = sample_slice(microbatch, dp, rank)
        low, high = max(low, begin), min(high, end)
        if low < high:
            found.append((rank, low, high))
    return found
