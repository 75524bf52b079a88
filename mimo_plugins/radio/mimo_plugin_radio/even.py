"""Attention over packed pictures that are of one size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.packed_seq_params import PackedSeqParams

OFTEN = 8
MOST = 64


@dataclass
class Pictures(PackedSeqParams):  # type: ignore[misc]
    """Bounds of packed pictures."""

    even: bool = False
    """All are of one size, and attention may take them as a batch."""


class EvenShapes:
    """Which shapes of a batch come again and again.

    cuDNN makes a plan for each shape of a batch and keeps it; for packed sequences, one for many.
    flash-attn-4's kernels are of any shape.

    Args:
        often: Microbatches of one shape after which it is worth kernels of its own.
        most: Shapes that get them.
    """

    def __init__(self, often: int = OFTEN, most: float = MOST) -> None:
        self._often_enough, self._most = often, most
        self._times: Counter[tuple[int, int]] = Counter()
        self._often: set[tuple[int, int]] = set()

    def take(self, lengths: Sequence[int]) -> bool:
        """Whether pictures of so many patches each are to be a batch. Called once a microbatch."""
        shape = _shape(lengths)
        if shape is None:
            return False
        if shape not in self._often:
            self._times[shape] += 1
            if self._times[shape] < self._often_enough or len(self._often) >= self._most:
                return False
            self._often.add(shape)
        return True

    def settled(self, lengths: Sequence[int]) -> bool:
        """Whether :meth:`take` will say of them what it said last, however often they come."""
        shape = _shape(lengths)
        return shape is None or shape in self._often or len(self._often) >= self._most


def _shape(lengths: Sequence[int]) -> tuple[int, int] | None:
    """Of the batch that pictures of so many patches each can be."""
    return (len(lengths), lengths[0]) if len({*lengths}) == 1 else None


class EvenPictures:
    """Stands before a core attention: hands pictures of one size to it as a batch.

    Kernels for packed sequences do more than those for a batch (docs/performance.md).
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
        if not getattr(packed_seq_params, "even", False):
            return stock(query, key, value, *given, packed_seq_params, **more)  # type: ignore[no-any-return]
        assert packed_seq_params is not None
        shape = (-1, packed_seq_params.max_seqlen_q)
        batch = [each.unflatten(0, shape) for each in (query, key, value)]
        attended = stock(*batch, *given, PackedSeqParams(qkv_format="bshd"), **more)
        return attended.flatten(0, 1)  # type: ignore[no-any-return]
