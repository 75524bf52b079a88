"""The dynamic tower's attention where TransformerEngine is."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.extensions.transformer_engine import TEDotProductAttention
from megatron.core.packed_seq_params import PackedSeqParams

from mimo_plugin_radio.even import EvenPictures
from mimo_plugin_radio.flash import Kernels, attend


class PicturesAttention(EvenPictures, TEDotProductAttention):  # type: ignore[misc]
    """TransformerEngine's attention, over packed pictures or a batch of them."""


class FlashAttention(TEDotProductAttention):  # type: ignore[misc]
    """flash-attn-4's in its place; what checkpoints hold is the same."""

    def __init__(self, *args: Any, kernels: Kernels, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._kernels = kernels

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        attn_mask_type: Any,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: PackedSeqParams | None = None,
        **more: Any,
    ) -> torch.Tensor:
        """As the core attention's: ``[N, heads, size]`` each, to ``[N, heads * size]``."""
        assert packed_seq_params is not None
        return attend(query, key, value, packed_seq_params, self._kernels)
