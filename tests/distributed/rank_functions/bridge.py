"""What ``test_bridge`` runs on ranks: the bridge alone, without megatron."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist

from mimo_core.contract import LANGUAGE, Grid
from mimo_core.distributed.bridge import ModuleBridge
from mimo_core.distributed.routing import bridge_ranks, route_edge, sample_slice
from mimo_core.planning.rank_layout import plan_layout

WIDTH = 3

Counts = dict[str, list[list[int]]]
"""By encoder, by microbatch: rows of each sample of the whole microbatch."""


def rows_of(encoder: str, number: int, counts: list[int], begin: int, end: int) -> torch.Tensor:
    """Rows ``[N, WIDTH]`` of samples ``[begin, end)``; numbers of their own, exact in bf16."""
    starts = [0, *accumulate(counts)]
    row = torch.arange(starts[begin], starts[end], dtype=torch.float32)
    return (row * 4 + 64 * number + len(encoder))[:, None] + torch.arange(WIDTH)


def gradient_of(rows: torch.Tensor, shard: int) -> torch.Tensor:
    """What one context-parallel shard of the language model contributes."""
    return rows * (shard + 1) - shard


class Rank:
    """One rank's end of one layout's edges."""

    def __init__(
        self,
        platform: Any,
        *,
        grids: dict[str, dict[str, int]],
        counts: Counts,
        silent: list[str] = (),
        dtype: str = "float32",
    ) -> None:
        self.layout = plan_layout({name: Grid(**sizes) for name, sizes in grids.items()})
        self.rank, self.counts = dist.get_rank(), counts
        self.module = self.layout.module_of(self.rank)
        self.at = self.layout.coordinates(self.rank, self.module)
        self.encoders = [name for name in self.layout.grids if name != LANGUAGE]
        self.microbatch = len(counts[self.encoders[0]][0])
        self.numbers = range(len(counts[self.encoders[0]]))
        encoders = self.encoders if self.module == LANGUAGE else [self.module]
        bridging = bridge_ranks(self.layout)
        self.bridging = self.rank in bridging
        self.bridge = ModuleBridge(
            routes=[route_edge(e, self.layout, self.microbatch, self.rank) for e in encoders],
            ranks=bridging,
            width=WIDTH,
            dtype=getattr(torch, dtype),
            silent=frozenset(silent),
            titles={name: f"module {name!r}" for name in encoders},
            platform=platform,
        )

    @property
    def samples(self) -> tuple[int, int]:
        return sample_slice(self.microbatch, self.layout.grids[self.module].dp, self.at["dp"])

    def own_counts(self, encoder: str, number: int) -> list[int]:
        begin, end = self.samples
        return self.counts[encoder][number][begin:end]

    def rows(self, encoder: str, number: int) -> torch.Tensor:
        return rows_of(encoder, number, self.counts[encoder][number], *self.samples)

    def run(self) -> dict[str, Any]:
        """All microbatches in 1F1B order; what arrived, by encoder, by microbatch."""
        if not self.bridging:
            return {}
        return self.run_language() if self.module == LANGUAGE else self.run_encoder()

    def run_encoder(self) -> dict[str, Any]:
        name, learns = self.module, self.bridge.learns(self.module)
        arrived = []
        for number in [*self.numbers, len(self.numbers)]:
            send = due = None
            if number in self.numbers:
                # A slice of something larger, with a graph behind it: as a tower gives it.
                whole = torch.cat([self.rows(name, number)] * 2, dim=1).requires_grad_() * 1.0
                send = (name, whole[:, :WIDTH], self.own_counts(name, number))
            if learns and number:
                due = (name, self.own_counts(name, number - 1))
            transfer, filled = self.bridge.exchange(send_forward=send, receive_backward=due)
            transfer.wait(list(filled.values()))
            if due:
                arrived.append(filled[name].tolist())
            else:
                assert not filled
        return {name: arrived}

    def run_language(self) -> dict[str, Any]:
        arrived: dict[str, Any] = {name: [] for name in self.encoders}
        dtypes, messages_back = set(), 0
        for number in [*self.numbers, len(self.numbers)]:
            send = due = None
            if number:
                # Nobody has gradients for what does not learn.
                gradients = {
                    name: gradient_of(self.rows(name, number - 1), self.at["cp"])
                    for name in self.encoders
                    if self.bridge.learns(name)
                }
                counts = {name: self.own_counts(name, number - 1) for name in self.encoders}
                send = (gradients, counts)
            if number in self.numbers:
                due = {name: self.own_counts(name, number) for name in self.encoders}
            transfer, filled = self.bridge.exchange(send_backward=send, receive_forward=due)
            if due is None:
                messages_back = len(transfer.works)
            transfer.wait(list(filled.values()))
            for name, tensor in filled.items():
                dtypes.add(str(tensor.dtype))
                arrived[name].append(tensor.tolist())
        return {**arrived, "dtypes": sorted(dtypes), "messages back": messages_back}


def everything(platform: Any, layouts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Each layout's traffic on this rank, one after the other."""
    result = {name: Rank(platform, **layout).run() for name, layout in layouts.items()}
    rank = Rank(platform, **layouts["fan in"])
    result["errors"] = _errors(rank) if rank.module != LANGUAGE else {}
    return result


def _errors(rank: Rank) -> dict[str, str]:
    found = {}
    for what, shape in {"rows": (9, WIDTH), "width": (3, WIDTH + 1)}.items():
        try:
            rank.bridge.exchange(send_forward=(rank.module, torch.zeros(shape), [1, 2]))
        except ValueError as error:
            found[what] = str(error)
    return found
