"""Attention over packed pictures that happen to be of one size."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.packed_seq_params import PackedSeqParams


class EvenPictures:
    """Stands before a core attention: hands pictures of one size to it as a batch.

    Kernels for packed sequences do more than those for a batch (docs/performance.md). How many
    pictures there are, and the longest, is known on the host.
    """

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
        stock: Any = super().forward  # type: ignore[misc]
        given = (attention_mask, attn_mask_type, attention_bias)
        if packed_seq_params is None or packed_seq_params.cu_seqlens_q is None:
            return stock(query, key, value, *given, packed_seq_params, **more)  # type: ignore[no-any-return]
        pictures = len(packed_seq_params.cu_seqlens_q) - 1
        longest = packed_seq_params.max_seqlen_q
        if pictures * longest != len(query):
            return stock(query, key, value, *given, packed_seq_params, **more)  # type: ignore[no-any-return]
        batch = [each.unflatten(0, (pictures, longest)) for each in (query, key, value)]
        attended = stock(*batch, *given, PackedSeqParams(qkv_format="bshd"), **more)
        return attended.flatten(0, 1)  # type: ignore[no-any-return]
