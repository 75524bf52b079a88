"""The norm of local layers, for machines without TransformerEngine."""

from __future__ import annotations

import torch
from megatron.core.transformer import TransformerConfig
from torch import nn


class RMSNorm(nn.Module):
    """RMS norm of ``[S, B, H]`` that runs under sequence parallelism; float32 inside.

    Each tp rank normalizes its part of the sequence, so that the weight's gradient is a partial
    sum: ``sequence_parallel`` on the weight tells megatron to add them up. (Megatron's own
    ``WrappedTorchNorm`` refuses sequence parallelism.)
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * scale * self.weight.float()).to(x.dtype)
