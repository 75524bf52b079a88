"""Weight gradients that matrix products add to ``main_grad`` themselves.

megatron-core 0.19 (``gradient_accumulation_fusion``) has this of TransformerEngine for its layers,
and of APEX for core's own; one core layer, such as the output layer, then refuses to be built where
there is no APEX. Here core's layers add their gradients as without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from megatron.core.tensor_parallel import layers
from megatron.core.transformer import TransformerConfig

from mimo_core.platforms.base import RankPlatform

_OURS = (layers.ColumnParallelLinear, layers.RowParallelLinear)


@contextmanager
def fused_where_possible(
    config: TransformerConfig, module: str, platform: RankPlatform
) -> Iterator[None]:
    """A module of this rank is built in this.

    Raises:
        ValueError: there is no TransformerEngine on this machine.
    """
    if not config.gradient_accumulation_fusion:
        yield
        return
    if not platform.transformer_engine:
        raise ValueError(
            f"modules.{module}.megatron.gradient_accumulation_fusion needs TransformerEngine on a "
            "GPU; leave it out on this machine"
        )
    # TransformerEngine would write over main_grad in what it takes for a step's first microbatch:
    # whether that is so, each of its layers is told with each forward.
    config.disable_parameter_transpose_cache = True
    available = layers._grad_accum_fusion_available
    layers._grad_accum_fusion_available = True
    try:
        yield
    finally:
        layers._grad_accum_fusion_available = available


def leave_out_core_layers(model: torch.nn.Module) -> None:
    """Have core's own layers add their gradients after the product, where there is no APEX."""
    if not layers._grad_accum_fusion_available:
        for layer in model.modules():
            if isinstance(layer, _OURS):
                layer.gradient_accumulation_fusion = False
