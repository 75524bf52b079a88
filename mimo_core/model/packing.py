"""Samples that lie end to end in one row, as megatron is told of them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F


def packing_kwargs(lengths: torch.Tensor, device: torch.device) -> dict[str, Any]:
    """What ``MimoModel`` makes ``PackedSeqParams`` of.

    Args:
        lengths: Positions of each sample, int32 ``[samples]``, on the CPU: nothing waits for the
            device here.
        device: Where the model is.

    Returns:
        Bounds of the samples, int32 ``[samples + 1]``; the longest; and the number of the sample
        at each position, int32 ``[1, S]``, which Mamba layers read.
    """
    bounds = F.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0)).to(device, non_blocking=True)
    longest = int(lengths.max())
    return {
        "cu_seqlens_q": bounds,
        "cu_seqlens_kv": bounds,
        "max_seqlen_q": longest,
        "max_seqlen_kv": longest,
        "seq_idx": sample_of_position(lengths)[None].to(device, non_blocking=True),
    }


def sample_of_position(lengths: torch.Tensor) -> torch.Tensor:
    """The number of the sample at each position, int32 ``[S]``."""
    numbers = torch.arange(len(lengths), dtype=torch.int32)
    return torch.repeat_interleave(numbers, lengths.long())
