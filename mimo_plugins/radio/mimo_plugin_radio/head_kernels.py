"""Copies of heads on a GPU: torch's of tensors with gaps reach a third of its memory's speed."""

from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
import triton.language as tl

_ROWS = 32


@triton.jit  # type: ignore[untyped-decorator]
def _copy(  # type: ignore[no-untyped-def]
    source,
    target,
    total,
    heads,
    source_row,
    source_head,
    target_row,
    target_head,
    GIVEN: tl.constexpr,
    WANTED: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):
    places = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row, head = (places // heads).to(tl.int64), (places % heads).to(tl.int64)
    columns = tl.arange(0, WIDTH)[None, :]
    inside = (places < total)[:, None]
    begins = (row * source_row + head * source_head)[:, None]
    values = tl.load(source + begins + columns, inside & (columns < GIVEN), 0.0)
    begins = (row * target_row + head * target_head)[:, None]
    tl.store(target + begins + columns, values, inside & (columns < WANTED))


def copy_heads(source: torch.Tensor, target: torch.Tensor) -> None:
    """What fits of ``[N, heads, given]`` into ``[N, heads, wanted]``, and zeros behind it.

    Numbers of a head lie side by side in both; heads and rows may have gaps.
    """
    source = source if source.stride(-1) == 1 else source.contiguous()
    rows, heads, given = source.shape
    wanted = target.shape[-1]
    grid = (triton.cdiv(rows * heads, _ROWS),)
    with torch.cuda.device(source.device) if source.is_cuda else nullcontext():
        _copy[grid](
            source,
            target,
            rows * heads,
            heads,
            source.stride(0),
            source.stride(1),
            target.stride(0),
            target.stride(1),
            GIVEN=given,
            WANTED=wanted,
            WIDTH=triton.next_power_of_2(max(given, wanted)),
            ROWS=_ROWS,
        )
