"""Attention of packed pictures, one after another."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F


def each_alone(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: Any, scale: float
) -> torch.Tensor:
    """``[N, heads, size]``: torch's attention of each picture."""
    groups = zip(
        *(x.transpose(0, 1).split(lengths, dim=1) for x in (query, key, value)), strict=True
    )
    attended = [F.scaled_dot_product_attention(*group, scale=scale) for group in groups]
    return torch.cat(attended, dim=1).transpose(0, 1)
