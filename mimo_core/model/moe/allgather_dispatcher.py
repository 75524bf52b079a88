"""Tokens of few expert-parallel ranks: each rank gets all of them once, and picks its experts'."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.mappings import (
    gather_from_sequence_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.moe.moe_utils import permute, unpermute
from megatron.core.transformer.moe.token_dispatcher import MoETokenDispatcher


class AllGatherTokenDispatcher(MoETokenDispatcher):  # type: ignore[misc]
    """Dispatches tokens by gathering those of all ranks, and sums what their experts put out.

    The all-to-all dispatcher sends a token once for each of its experts, which is more where ranks
    are fewer than those, and sorts what it sends and what it gets. Here a token travels once to
    each rank, and its experts' outputs are added up before one row travels back. The host waits
    for one number a layer, how many rows this rank's experts get, while the tokens travel:
    megatron-core 0.19's own all-gather dispatcher waits before, sends its sums in float32, and
    gathers into a buffer of the global parallel state.
    """

    def __init__(
        self,
        num_local_experts: int,
        local_expert_indices: list[int],
        config: TransformerConfig,
        pg_collection: ProcessGroupCollection | None = None,
    ) -> None:
        super().__init__(config=config, pg_collection=pg_collection)
        first = local_expert_indices[0]
        self._own = slice(first, first + num_local_experts)

    def dispatch_preprocess(
        self, hidden_states: torch.Tensor, routing_map: torch.Tensor, probs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens ``[S, B, H]`` of this rank, which experts each goes to and their probabilities
        ``[T, experts]``, to ``[T, H]`` and one tensor of both, in which -1 is no expert."""
        self._shape = hidden_states.shape
        return hidden_states.flatten(0, -2), torch.where(routing_map, probs, -1.0)

    def token_dispatch(
        self, hidden_states: torch.Tensor, probs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All ranks' tokens ``[ranks * T, H]``, and their probabilities for this rank's experts."""
        group = self.tp_ep_group
        marked = gather_from_sequence_parallel_region(probs, group=group)[:, self._own]
        self._map = marked.detach() >= 0
        self._counts = self._map.sum(0)
        self._rows = _AsyncHostScalar(self._counts.sum())
        tokens = gather_from_sequence_parallel_region(hidden_states, group=group)
        return tokens, torch.where(self._map, marked, 0.0)

    def dispatch_postprocess(
        self, hidden_states: torch.Tensor, probs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows ``[N, H]`` sorted by expert, the number of each expert's, and their
        probabilities ``[N]``."""
        rows = self._rows.number()
        self._gathered = hidden_states.shape
        # TransformerEngine's kernels refuse to sort nothing.
        self._fused = bool(self.config.moe_permute_fusion) and rows > 0
        sorted_rows, sorted_probs, self._order, _, _ = permute(
            hidden_states, self._map, probs=probs, num_out_tokens=rows, fused=self._fused
        )
        return sorted_rows, self._counts, sorted_probs

    def combine_preprocess(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """What this rank's experts put out for each token together, ``[ranks * T, H]``."""
        summed: torch.Tensor = unpermute(
            hidden_states,
            self._order,
            restore_shape=self._gathered,
            routing_map=self._map,
            fused=self._fused,
        )
        return summed

    def token_combine(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The sum over ranks for this rank's tokens, ``[T, H]``."""
        combined: torch.Tensor = reduce_scatter_to_sequence_parallel_region(
            hidden_states, group=self.tp_ep_group
        )
        return combined

    def combine_postprocess(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """As the tokens came, ``[S, B, H]``."""
        return hidden_states.view(self._shape)


class _AsyncHostScalar:
    """A number of the device that the host needs later."""

    def __init__(self, number: torch.Tensor) -> None:
        self._number = number.to("cpu", non_blocking=True)
        self._arrived = torch.cuda.Event() if number.is_cuda else None
        if self._arrived is not None:
            self._arrived.record()

    def number(self) -> int:
        if self._arrived is not None:
            self._arrived.synchronize()
        return int(self._number)


def gathered_tokens(layer: Any, groups: ProcessGroupCollection) -> AllGatherTokenDispatcher | None:
    """The dispatcher for a layer of experts whose ranks have equally many tokens, if gathering
    sends no more than the all-to-all: tokens come from ``ranks - 1`` others, instead of ``(ranks -
    1) / ranks`` of each token's experts' copies.

    Args:
        layer: Core's ``MoELayer``.
        groups: Of its module.
    """
    ranks = groups.tp_ep.size()
    overlaps = layer.use_shared_expert and layer.shared_expert_overlap
    if ranks == 1 or ranks > layer.config.moe_router_topk or overlaps:
        return None
    return AllGatherTokenDispatcher(
        layer.num_local_experts,
        layer.local_expert_indices,
        config=layer.config,
        pg_collection=groups,
    )


def compute_shared_expert(layer: Any) -> None:
    """Tell a layer's new dispatcher of the shared expert, where dispatchers are to compute it
    (``moe_shared_expert_overlap``) and add it to the others: the layer leaves it to them.

    Args:
        layer: Core's ``MoELayer``.
    """
    if layer.use_shared_expert and layer.shared_expert_overlap:
        layer.token_dispatcher.set_shared_experts(layer.shared_experts)
