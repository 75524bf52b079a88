"""Rows of encoders to the language model, gradients back: one batch of messages a step.

Every transfer of a rank at one point of the schedule is a single
``batch_isend_irecv`` on one process group of all bridging ranks, its messages in one global order
(edge, then peer). So two ranks never wait for each other in opposite orders, whatever NCCL does
with streams and connections.

No shapes travel: both sides count rows from the same samples' metadata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

import attrs
import torch
import torch.distributed as dist

from mimo_core.data.row_counts import RowCounts, check_rows
from mimo_core.distributed.routing import EdgeRouting, PeerTransfer
from mimo_core.platforms.base import RankPlatform
from mimo_core.profile.recorder import message, recorder, span, wait_for
from mimo_core.profile.spans import Exchange


@attrs.define(kw_only=True)
class PendingTransfer:
    """Messages under way. Keeps what is sent alive until it has left."""

    works: list[dist.Work]
    kept: list[torch.Tensor]
    platform: RankPlatform
    messages: list[Exchange] = attrs.field(factory=list)
    """Those of a step that is recorded."""

    def wait(self, received: Sequence[torch.Tensor] = ()) -> None:
        """The current stream may use ``received`` afterwards."""
        with span("exchange", "wait for messages"):
            wait_for(self.messages)
            with self.platform.transfer():
                for work in self.works:
                    work.wait()
            self.platform.received(list(received))
        self.works, self.kept, self.messages = [], [], []


class ModuleBridge:
    """This rank's end of all edges.

    Made by every rank of the world (the group is collective); used on bridging ranks only.
    """

    def __init__(
        self,
        *,
        routes: Sequence[EdgeRouting],
        ranks: Sequence[int],
        width: int,
        dtype: torch.dtype,
        silent: frozenset[str],
        titles: Mapping[str, str],
        platform: RankPlatform,
    ) -> None:
        """
        Args:
            routes: This rank's route over each edge, in the graph's order.
            ranks: All bridging ranks of the world.
            width: Language model's hidden size, the features of a row.
            dtype: What rows are sent in.
            silent: Encoders with nothing to learn: no gradients travel to them.
            titles: Encoders with their plugins, as messages name them.
            platform: This rank's machine.
        """
        self._routes = {route.encoder: route for route in routes}
        self._width = width
        self._dtype = dtype
        self._silent = silent
        self._titles = titles
        self._platform = platform
        self._group = None
        if len(ranks) > 1:
            group = dist.new_group(list(ranks), backend=platform.backend, group_desc="bridge")
            if dist.get_rank() in ranks:
                self._group = group
                # A first collective of all members: NCCL's communicator exists before any message.
                dist.all_reduce(torch.zeros(1, device=platform.device), group=group)

    def learns(self, encoder: str) -> bool:
        """Whether gradients travel back to the encoder."""
        return encoder not in self._silent

    def exchange(
        self,
        *,
        send_forward: tuple[str, torch.Tensor, Sequence[int]] | None = None,
        receive_backward: tuple[str, Sequence[int]] | None = None,
        send_backward: tuple[Mapping[str, torch.Tensor], RowCounts] | None = None,
        receive_forward: RowCounts | None = None,
    ) -> tuple[PendingTransfer, dict[str, torch.Tensor]]:
        """Start all messages of one point of the schedule as one batch.

        Args:
            send_forward: (encoder, rows ``[N, H]``, rows of each sample), on encoder ranks.
            receive_backward: (encoder, rows of each sample of the microbatch whose gradients are
                due), on encoder ranks.
            send_backward: (gradients ``[N, H]`` by encoder, rows of that microbatch), on language
                ranks.
            receive_forward: Rows of the microbatch that is due, on language ranks.

        Returns:
            The transfer, and by encoder the tensors that :meth:`PendingTransfer.wait` fills: rows
            ``[N, H]`` on language ranks, gradients ``[K, N, H]`` on encoder ranks with one slice
            for each of the ``K`` context-parallel shards that contribute, to be added up.

        Raises:
            PluginError: an encoder put out another number of rows than the samples' metadata say.
        """
        ops: list[dist.P2POp] = []
        filled: dict[str, torch.Tensor] = {}
        # Casts and copies are queued where their sources are used: those may be freed at once.
        if send_forward is not None:
            encoder, rows, counts = send_forward
            check_rows(rows, counts, self._width, self._titles[encoder])
            for leg, part in self._parts(self._routes[encoder].forward, rows, counts):
                self._add(ops, dist.isend, part, leg)
        if send_backward is not None:
            gradients, rows_of = send_backward
            for encoder in self._learning():
                gradient, counts = gradients[encoder], rows_of[encoder]
                for leg, part in self._parts(self._routes[encoder].backward, gradient, counts):
                    self._add(ops, dist.isend, part, leg)
        with span("exchange", "begin messages"), self._platform.transfer():
            if receive_backward is not None:
                encoder, counts = receive_backward
                filled[encoder] = self._receive_gradients(ops, encoder, counts)
            if receive_forward is not None:
                for encoder, route in self._routes.items():
                    counts = receive_forward[encoder]
                    filled[encoder] = self._empty(sum(counts))
                    for leg, part in self._parts(route.forward, filled[encoder], counts):
                        self._add(ops, dist.irecv, part, leg)
            works = dist.batch_isend_irecv(ops) if ops else []
            encodes = send_forward is not None or receive_backward is not None
            messages = self._recorded(ops, encodes) if recorder() else []
        kept = [op.tensor for op in ops]
        transfer = PendingTransfer(
            works=works, kept=kept, platform=self._platform, messages=messages
        )
        return transfer, filled

    def _recorded(self, ops: Sequence[dist.P2POp], encodes: bool) -> list[Exchange]:
        """The messages, named alike on both sides; ``encodes`` is the encoder's."""
        rank = dist.get_rank()
        of = {leg.peer: e for e, r in self._routes.items() for leg in (*r.forward, *r.backward)}
        return [
            message(
                f"{'rows' if sends == encodes else 'gradients'} of {of[op.peer]}",
                *((rank, op.peer) if sends else (op.peer, rank)),
            )
            for op in ops
            for sends in [op.op is dist.isend]
        ]

    def _learning(self) -> list[str]:
        return [encoder for encoder in self._routes if self.learns(encoder)]

    def _receive_gradients(
        self, ops: list[dist.P2POp], encoder: str, counts: Sequence[int]
    ) -> torch.Tensor:
        """Post receives of ``[K, N, H]``: shard k of every sample comes k-th in its legs' order."""
        legs = self._routes[encoder].backward
        seen: dict[int, int] = {}
        shard_of = []
        for leg in legs:
            shard_of.append(seen.get(leg.begin, 0))
            seen[leg.begin] = shard_of[-1] + 1
        shards = max(shard_of, default=0) + 1
        gradients = self._empty(shards * sum(counts)).view(shards, sum(counts), self._width)
        for shard, leg in zip(shard_of, legs, strict=True):
            for _, part in self._parts([leg], gradients[shard], counts):
                self._add(ops, dist.irecv, part, leg)
        return gradients

    def _parts(
        self, legs: Sequence[PeerTransfer], rows: torch.Tensor, counts: Sequence[int]
    ) -> list[tuple[PeerTransfer, torch.Tensor]]:
        """The non-empty parts of ``rows`` that belong to the legs."""
        starts = [0, *accumulate(counts)]
        return [
            (leg, rows[starts[leg.begin] : starts[leg.end]])
            for leg in legs
            if starts[leg.end] > starts[leg.begin]
        ]

    def _add(
        self, ops: list[dist.P2POp], operation: object, part: torch.Tensor, leg: PeerTransfer
    ) -> None:
        if operation is dist.isend:
            part = part.detach().to(self._dtype).contiguous()
        ops.append(dist.P2POp(operation, part, leg.peer, group=self._group))

    def _empty(self, rows: int) -> torch.Tensor:
        return torch.empty(rows, self._width, dtype=self._dtype, device=self._platform.device)
