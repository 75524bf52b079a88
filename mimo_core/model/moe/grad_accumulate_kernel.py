"""Adding gradients of experts to those of earlier microbatches, at the speed of a GPU's memory."""

from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
import triton.language as tl

_BLOCK = 4096


@triton.jit  # type: ignore[untyped-decorator]
def _add(whole, part, ends, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    group = tl.program_id(1)
    begin = tl.load(ends + group - 1, group > 0, 0)
    within = tl.where(tl.load(ends + group) > begin, size, 0)
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < within
    places += group.to(tl.int64) * size
    before = tl.load(whole + places, inside, 0.0).to(tl.float32)
    sums = before + tl.load(part + places, inside, 0.0).to(tl.float32)
    tl.store(whole + places, sums.to(whole.dtype.element_ty), inside)


def grouped_add_(whole: torch.Tensor, part: torch.Tensor, ends: torch.Tensor) -> None:
    """``whole += part`` but for groups that have no rows.

    torch 2.11 adds tensors of two types element by element: 1.3 of 4.3 TB/s on an H200.

    Args:
        whole: ``[groups, ...]``, contiguous, of any type; changed in place.
        part: The same shape, contiguous, of any type.
        ends: ``[groups]`` int32: where each group's rows end.
    """
    size = whole[0].numel()
    grid = (triton.cdiv(size, _BLOCK), len(whole))
    with torch.cuda.device(whole.device) if whole.is_cuda else nullcontext():
        _add[grid](whole, part, ends, size, BLOCK=_BLOCK, num_warps=8)
