"""Modules in mixed precision, and what in them stays in float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.moe.router import TopKRouter
from torch.nn.modules.batchnorm import _NormBase

from mimo_core.errors import MimoError


class MixedPrecisionModule(Float16Module):  # type: ignore[misc]
    """Mixed precision whose output stays in model precision: rows travel as they are, and the loss
    takes logits to float32 by itself.

    A router's buffers stay in float32. megatron-core 0.19 casts them with the rest and takes only
    the expert bias back: tokens would be counted in bf16, whose integers are exact up to 256.
    """

    def __init__(self, config: TransformerConfig, module: torch.nn.Module) -> None:
        kept = [*_counting_buffers(module)]
        super().__init__(config, module)
        for owner, name, buffer in kept:
            owner._buffers[name] = buffer

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        return super().forward(*inputs, fp32_output=False, **kwargs)


def _counting_buffers(
    module: torch.nn.Module,
) -> Iterator[tuple[torch.nn.Module, str, torch.Tensor]]:
    for owner in module.modules():
        if isinstance(owner, TopKRouter):
            for name, buffer in owner.named_buffers(recurse=False):
                yield owner, name, buffer


def check_statistics(name: str, module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Whether a module in this precision keeps running statistics that it can hold.

    Args:
        name: Of the module.
        module: With what is frozen in evaluation mode.
        dtype: Of its parameters.

    Raises:
        MimoError: batch norms would add small updates to statistics in bf16, which rounds them
            away; torch's kernels take no statistics of another type than the weights.
    """
    if dtype is torch.float32:
        return
    for path, norm in module.named_modules():
        if isinstance(norm, _NormBase) and norm.track_running_stats and norm.training:
            raise MimoError(
                f"module {name!r}: {path} ({type(norm).__name__}) keeps running statistics, which "
                f"bf16 rounds by up to 1 part in 512 at every step; set modules.{name}.precision "
                "to fp32, freeze the part, or use a norm without statistics",
                code="recipe.invalid-value",
                module=name,
                layer=path,
                value="bf16",
            )


def statistics_that_do_not_learn(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Batch norms whose weights are frozen: their running statistics must not move either."""
    for norm in module.modules():
        if isinstance(norm, _NormBase) and norm.track_running_stats:
            weights = [*norm.parameters()]
            if weights and not any(weight.requires_grad for weight in weights):
                yield norm
