"""Attention over packed sequences, for layers without TransformerEngine."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import tensor_parallel
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.enums import AttnMaskType


class PackedAttention(DotProductAttention):  # type: ignore[misc]
    """Megatron's local attention, which refuses packed sequences, with them.

    Stands where a plugin's local layer spec has ``DotProductAttention``. Sequences that are not
    packed go the way they always did.
    """

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: PackedSeqParams | None = None,
    ) -> torch.Tensor:
        """Attention of each packed sequence to itself.

        Args:
            query: ``[S, heads / tp, D]`` where packed (the layer has dropped ``B`` = 1), else
                ``[S, B, heads / tp, D]``.
            key: ``[S, groups / tp, D]``, likewise.
            value: As ``key``.
            attention_mask: Not read where packed.
            attn_mask_type: Causal or not; the layer's own by default.
            attention_bias: Not supported.
            packed_seq_params: ``cu_seqlens_q`` bounds the sequences.

        Returns:
            ``[S, heads / tp * D]`` where packed, else ``[S, B, heads / tp * D]``.

        Raises:
            ValueError: packed, with a window or a softmax that only TransformerEngine has for it.
        """
        if packed_seq_params is None:
            plain: torch.Tensor = super().forward(
                query, key, value, attention_mask, attn_mask_type, attention_bias
            )
            return plain
        assert attention_bias is None, "packed attention has no bias"
        if self.scale_mask_softmax.window_size or self.config.softmax_type != "vanilla":
            raise ValueError(
                "without TransformerEngine, packed sequences know neither window_size "
                f"({self.config.window_size}) nor softmax_type {self.config.softmax_type!r}; leave "
                "both out of the module's megatron section, or set packing: false"
            )
        mask_type = attn_mask_type or self.attn_mask_type
        causal = mask_type in (AttnMaskType.causal, AttnMaskType.padding_causal)
        lengths = packed_seq_params.cu_seqlens_q.diff().tolist()
        dropout = self.attention_dropout.p if self.training else 0.0
        parts = zip(*(tensor.split(lengths) for tensor in (query, key, value)), strict=True)
        with self._random(dropout):
            attended = [self._attend(*part, causal=causal, dropout=dropout) for part in parts]
        return torch.cat(attended).flatten(1)

    def _attend(
        self, query: Any, key: Any, value: Any, *, causal: bool, dropout: float
    ) -> torch.Tensor:
        """One sequence: ``[s, heads, D]``."""
        q, k, v = (tensor.transpose(0, 1)[None] for tensor in (query, key, value))
        attended = F.scaled_dot_product_attention(
            q,
            k,
            v,
            is_causal=causal,
            dropout_p=dropout,
            # Megatron's own divides the scores by this factor, and multiplies in the softmax.
            scale=self.softmax_scale * (self.scale_mask_softmax.scale or 1.0),
            enable_gqa=q.shape[1] != k.shape[1],
        )
        return attended[0].transpose(0, 1)

    def _random(self, dropout: float) -> Any:
        """Heads of tensor-parallel ranks drop by themselves, as in megatron's own attention."""
        if not dropout or self.config.sequence_parallel:
            return nullcontext()
        return tensor_parallel.get_cuda_rng_tracker().fork()
