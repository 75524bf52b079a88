"""Which positions of a row each context-parallel rank holds, and the language model's inputs on it.

Megatron's and TransformerEngine's layout: each sample is cut into ``2 cp`` equal chunks, of which
rank ``r`` holds chunks ``r`` and ``2 cp - 1 - r``, so that causal attention costs every rank the
same. A row that is not packed is one sample of ``S`` positions; a packed one has a cut of its own
for every sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.models.mimo.partition.utils import PartitionAdapter
from megatron.core.tensor_parallel import scatter_to_sequence_parallel_region


def local_positions(lengths: Sequence[int], ranks: int, rank: int) -> torch.Tensor:
    """Positions of a row on one context-parallel rank, ascending: int64 ``[S / cp]``, on the CPU.

    Args:
        lengths: Positions of each sample of the row, multiples of ``2 ranks``.
        ranks: Size of the context-parallel group.
        rank: Of this one in it.
    """
    row = torch.arange(sum(lengths))
    pieces = []
    for sample in row.split(list(lengths)):
        chunk, rest = divmod(len(sample), 2 * ranks)
        assert not rest, f"{len(sample)} positions are no multiple of 2 x cp {ranks}"
        chunks = sample.view(2 * ranks, chunk)
        pieces += [chunks[rank], chunks[2 * ranks - 1 - rank]]
    return torch.cat(pieces)


def cp_gather_order(lengths: Sequence[int], ranks: int) -> torch.Tensor:
    """Where each position of a row lies in the parts of all ranks, one after another: ``[S]``."""
    return torch.cat([local_positions(lengths, ranks, rank) for rank in range(ranks)]).argsort()


def gather_sequence(part: torch.Tensor, order: torch.Tensor, group: Any) -> torch.Tensor:
    """The whole row ``[B, S]`` of what each rank of the group has a part of, without gradients.

    Args:
        part: ``[B, S / cp]``.
        order: From :func:`cp_gather_order`.
        group: The context-parallel group; all of its ranks call this.
    """
    parts = [torch.empty_like(part) for _ in range(group.size())]
    dist.all_gather(parts, part.contiguous(), group=group)
    return torch.cat(parts, dim=1).index_select(1, order.to(part.device))


class CPPartitionAdapter(PartitionAdapter):  # type: ignore[misc]
    """Cuts the embeddings of whole rows down to this rank's part, by an index that it is given.

    megatron-core 0.19's adapter finds a packed row's positions by TransformerEngine alone, which a
    CPU has not, and only for samples it is told the padded bounds of.
    """

    own: torch.Tensor | None = None
    """This rank's positions of the microbatch, int64 ``[S / cp]`` on the device; ``None`` without
    context parallelism."""

    def shard(
        self,
        embeddings: torch.Tensor | None,
        labels: torch.Tensor | None,
        loss_mask: torch.Tensor | None,
        packed_seq_params: Any = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, Any]:
        """Embeddings ``[S, B, H]`` to ``[S / cp, B, H]``, or ``[S / (cp tp), B, H]`` with sequence
        parallelism; ``None`` on stages after the first. Labels and mask ``[B, S]`` are cut where
        the loss is computed, and never come here."""
        assert labels is None and loss_mask is None, "the forward step cuts labels and mask"
        if embeddings is not None:
            if self.cfg.use_cp:
                assert self.own is not None, "context parallelism, and no positions were told"
                embeddings = embeddings.index_select(0, self.own)
            if self.cfg.seq_parallel:
                embeddings = scatter_to_sequence_parallel_region(
                    embeddings, group=self.cfg.tp_group
                )
        return embeddings, None, None, packed_seq_params
