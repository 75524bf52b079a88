"""The mixture-of-experts layer from megatron's local modules."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from megatron.core.models.gpt.moe_module_specs import get_moe_module_spec
from megatron.core.transformer.moe.moe_layer import MoELayer
from megatron.core.transformer.moe.token_dispatcher import MoEAlltoAllTokenDispatcher

from mimo_core.model.moe.allgather_dispatcher import compute_shared_expert, gathered_tokens


class LocalTokenDispatcher(MoEAlltoAllTokenDispatcher):
    """The all-to-all dispatcher with its split sizes as numpy arrays.

    megatron-core 0.19 hands a collective the split sizes as a tensor, unless that was on a GPU
    and had to be copied from there (then as numpy); torch.distributed takes no tensor for them.
    """

    def _maybe_dtoh_and_synchronize(
        self, point: str, tokens_per_expert: torch.Tensor | None = None
    ) -> torch.Tensor:
        moved: torch.Tensor = super()._maybe_dtoh_and_synchronize(point, tokens_per_expert)
        for name in ("input_splits", "output_splits", "output_splits_tp"):
            sizes = getattr(self, name)
            if isinstance(sizes, torch.Tensor) and not sizes.is_cuda:
                setattr(self, name, sizes.numpy())
        return moved


class LocalMoELayer(MoELayer):
    """``MoELayer`` with that dispatcher, or the one that gathers: which one it makes is no part of
    its spec."""

    def __init__(self, *args: Any, even_tokens: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        gathered = gathered_tokens(self, kwargs["pg_collection"]) if even_tokens else None
        self.token_dispatcher = gathered or LocalTokenDispatcher(
            self.num_local_experts,
            self.local_expert_indices,
            config=self.config,
            pg_collection=kwargs["pg_collection"],
        )
        compute_shared_expert(self)


def local_moe_builder(*, even_tokens: bool = False) -> Any:
    """What builds the MoE part of a layer: routed experts one after another, a shared expert.

    Args:
        even_tokens: As :func:`~mimo_core.building.grouped_moe_builder` takes it.
    """
    # The number of experts comes from the config; the spec only wants one.
    stock = get_moe_module_spec(use_te=False, num_experts=1, moe_grouped_gemm=False)
    return partial(LocalMoELayer, **stock.keywords, even_tokens=even_tokens)
