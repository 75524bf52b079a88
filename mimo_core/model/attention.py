"""Attention over packed and over shared sequences, for layers without TransformerEngine."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import tensor_parallel
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig

from mimo_core.distributed.context_parallel import cp_gather_order, local_positions
from mimo_core.errors import MimoError


class PackedAttention(DotProductAttention):  # type: ignore[misc]
    """Megatron's local attention with packed sequences and context parallelism, which it refuses.

    Stands where a plugin's local layer spec has ``DotProductAttention``. Whole sequences that are
    not packed go the way they always did. A context-parallel rank gathers the keys and values of
    all positions for the queries of its own; their gradients are added up on the way back.
    :mod:`mimo_core.distributed.context_parallel` has these positions.
    """

    def __init__(self, config: TransformerConfig, *args: Any, **kwargs: Any) -> None:
        alone = copy.copy(config)
        alone.context_parallel_size = 1  # core asserts it, and reads it for nothing else
        super().__init__(alone, *args, **kwargs)
        self.config = config

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
        """Attention of each sequence to itself.

        Args:
            query: ``[S / cp, heads / tp, D]`` where packed (the layer has dropped ``B`` = 1), else
                ``[S / cp, B, heads / tp, D]``.
            key: ``[S / cp, groups / tp, D]``, likewise.
            value: As ``key``.
            attention_mask: Not read where packed or shared.
            attn_mask_type: Causal or not; the layer's own by default.
            attention_bias: Not supported.
            packed_seq_params: ``cu_seqlens_q`` bounds the sequences of the whole row.

        Returns:
            ``[S / cp, heads / tp * D]`` where packed, else ``[S / cp, B, heads / tp * D]``.

        Raises:
            MimoError: packed or shared, with a window or a softmax that only TransformerEngine has
                for it.
        """
        ranks = self.pg_collection.cp.size()
        if packed_seq_params is None and ranks == 1:
            plain: torch.Tensor = super().forward(
                query, key, value, attention_mask, attn_mask_type, attention_bias
            )
            return plain
        assert attention_bias is None, "packed or shared attention has no bias"
        self._refuse_what_is_not_known()
        mask_type = attn_mask_type or self.attn_mask_type
        causal = mask_type in (AttnMaskType.causal, AttnMaskType.padding_causal)
        lengths = [len(key) * ranks]
        if packed_seq_params is not None:
            lengths = packed_seq_params.cu_seqlens_q.diff().tolist()
        if ranks > 1:
            order = cp_gather_order(lengths, ranks).to(key.device)
            key, value = (self._gathered(tensor, order) for tensor in (key, value))
        dropout = self.attention_dropout.p if self.training else 0.0
        parts = zip(
            query.split([length // ranks for length in lengths]),
            key.split(lengths),
            value.split(lengths),
            strict=True,
        )
        with self._random(dropout):
            attended = [self._attend(*part, causal=causal, dropout=dropout) for part in parts]
        return torch.cat(attended).flatten(-2)

    def _refuse_what_is_not_known(self) -> None:
        if self.scale_mask_softmax.window_size or self.config.softmax_type != "vanilla":
            raise MimoError(
                "without TransformerEngine, packed sequences and context parallelism know neither "
                f"window_size ({self.config.window_size}) nor softmax_type "
                f"{self.config.softmax_type!r}; leave both out of the module's megatron section, "
                "or set packing: false and cp to 1",
                code="megatron.conflict",
                window_size=self.config.window_size,
                softmax_type=self.config.softmax_type,
            )

    def _gathered(self, part: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        """``[S / cp, …]`` of every rank as ``[S, …]`` in the order of the row."""
        parts = tensor_parallel.gather_from_sequence_parallel_region(
            part, group=self.pg_collection.cp
        )
        return parts.index_select(0, order)  # type: ignore[no-any-return]

    def _attend(
        self, query: Any, key: Any, value: Any, *, causal: bool, dropout: float
    ) -> torch.Tensor:
        """One sequence, or ``B`` of one length: ``[s / cp, …, heads, D]``, keys ``[s, …]``."""
        # [B, heads, s, D]
        packed = query.dim() == 3
        q, k, v = (
            tensor.transpose(0, 1)[None] if packed else tensor.permute(1, 2, 0, 3)
            for tensor in (query, key, value)
        )
        cp = self.pg_collection.cp
        mask = None
        if causal and cp.size() > 1:
            own = local_positions([len(key)], cp.size(), cp.rank()).to(key.device)
            mask = torch.arange(len(key), device=key.device) <= own[:, None]
        attended = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=causal and mask is None,
            dropout_p=dropout,
            # Megatron's own divides the scores by this factor, and multiplies in the softmax.
            scale=self.softmax_scale * (self.scale_mask_softmax.scale or 1.0),
            enable_gqa=q.shape[1] != k.shape[1],
        )
        return attended[0].transpose(0, 1) if packed else attended.permute(2, 0, 1, 3)

    def _random(self, dropout: float) -> Any:
        """Heads of tensor-parallel ranks drop by themselves, as in megatron's own attention."""
        if not dropout or self.config.sequence_parallel:
            return nullcontext()
        return tensor_parallel.get_cuda_rng_tracker().fork()
