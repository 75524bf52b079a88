"""A projector behind a norm."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.models.vision.multimodal_projector import MultimodalProjector
from megatron.core.transformer import TransformerConfig
from torch import Tensor, nn

EPSILON = 1e-5
"""Of the norm, as in NVIDIA's models."""


class RMSNorm(nn.Module):
    """RMS norm of the last axis; float32 inside, in which the weight is multiplied too."""

    def __init__(self, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPSILON)
        return (wide * scale * self.weight.float()).to(x.dtype)


class NormedProjector(MultimodalProjector):  # type: ignore[misc]
    """Megatron's projector behind an RMS norm of the tower's rows."""

    def __init__(self, config: TransformerConfig, *, input_size: int, **arguments: Any) -> None:
        super().__init__(config, input_size=input_size, **arguments)
        self.norm = RMSNorm(input_size, config.params_dtype)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Rows ``[N, width]`` to ``[N, language width]``."""
        return super().forward(self.norm(hidden_states))  # type: ignore[no-any-return]
