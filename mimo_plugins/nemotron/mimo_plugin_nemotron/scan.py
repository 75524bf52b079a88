"""The Mamba2 mixer's operations over positions in pure torch, with gradients by autograd.

The scan is the chunked state-space dual of T. Dao and A. Gu, "Transformers are SSDs" (arXiv
2405.21060, listing 1), arranged so that B and C are never repeated over the heads of a group:
every large product is a batched matrix product over (chunk, group).

Shapes: ``B`` sequences, ``S`` positions, ``H`` heads of width ``P`` in ``G`` groups of ``R``,
``N`` state size, ``C`` chunks of ``Q`` positions.

Samples may lie end to end in a sequence: ``segments`` ``[B, S]`` then numbers the sample that each
position belongs to, never falling. Nothing passes from one sample to the next.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def chunked_scan(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    *,
    chunk: int,
    segments: Tensor | None = None,
) -> Tensor:
    """The recurrence ``h_t = exp(dt_t a) h_{t-1} + dt_t b_t x_t``, ``y_t = c_t h_t``, by chunks.

    ``h`` is zero before the first position of each sample.

    Args:
        x: ``[B, S, H, P]``.
        dt: Step sizes ``[B, S, H]``, positive.
        a: Decay rates ``[H]``, negative.
        b: ``[B, S, G, N]``.
        c: ``[B, S, G, N]``.
        chunk: Positions of a chunk, at most; the last chunk is padded.
        segments: ``[B, S]``; without it each sequence is one sample.

    Returns:
        ``[B, S, H, P]``.
    """
    batch, length, heads, width = x.shape
    groups, state = b.shape[2:]
    shared = heads // groups
    chunk = min(chunk, length)
    chunks = math.ceil(length / chunk)
    padding = chunks * chunk - length
    if padding:
        x, dt, b, c = (_pad_positions(t, padding) for t in (x, dt, b, c))
        segments = None if segments is None else _pad_positions(segments, padding)

    # [B, C, G, R, Q]: sum of the log decays of a chunk, up to and with each position. In float64:
    # differences of two are wanted, whose float32 would be lost to the rounding of the sums.
    decay = (dt.double() * a.double()).view(batch, chunks, chunk, groups, shared)
    decay = decay.permute(0, 1, 3, 4, 2).cumsum(-1)
    stepped = (x * dt[..., None]).view(batch, chunks, chunk, groups, shared, width)
    stepped = stepped.permute(0, 1, 3, 4, 2, 5)  # [B, C, G, R, Q, P]
    b = b.view(batch, chunks, chunk, groups, state).transpose(2, 3)  # [B, C, G, Q, N]
    c = c.view(batch, chunks, chunk, groups, state).transpose(2, 3)
    if segments is not None:
        segments = segments.view(batch, chunks, 1, 1, chunk)

    # Within each chunk.
    between = _decay_between(decay, segments, x.dtype)
    scores = (c @ b.transpose(-1, -2))[:, :, :, None] * between
    y = scores @ stepped  # [B, C, G, R, Q, P]
    if chunks > 1:
        y = y + _from_earlier_chunks(stepped, decay, b, c, segments)
    y = y.permute(0, 1, 4, 2, 3, 5).reshape(batch, chunks * chunk, heads, width)
    return y[:, :length]


def _pad_positions(tensor: Tensor, padding: int) -> Tensor:
    """Zeros behind the last of the positions (dim 1): they neither decay nor add anything."""
    return F.pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, padding))


def _decay_between(decay: Tensor, segments: Tensor | None, dtype: torch.dtype) -> Tensor:
    """``exp(decay_i - decay_j)`` for ``i >= j`` of one sample, else 0: ``[..., Q] -> [..., Q, Q]``.

    Args:
        decay: Float64 ``[..., Q]``.
        segments: Sample of each, ``[..., Q]`` up to broadcasting.
        dtype: Of the result.
    """
    length = decay.shape[-1]
    apart = torch.ones(length, length, dtype=torch.bool, device=decay.device).triu(1)
    if segments is not None:
        apart = apart | (segments[..., :, None] != segments[..., None, :])
    difference = decay[..., :, None] - decay[..., None, :]
    return difference.to(dtype).masked_fill_(apart, -torch.inf).exp()


def _from_earlier_chunks(
    stepped: Tensor, decay: Tensor, b: Tensor, c: Tensor, segments: Tensor | None
) -> Tensor:
    """What the states left by earlier chunks add: ``[B, C, G, R, Q, P]``; shapes as above.

    Args:
        segments: ``[B, C, 1, 1, Q]``.
    """
    shared, width = stepped.shape[3], stepped.shape[-1]
    total = decay[..., -1]  # [B, C, G, R]
    to_end = (total[..., None] - decay).to(stepped.dtype).exp()
    from_start = decay.to(stepped.dtype).exp()
    ends = None
    if segments is not None:
        # A chunk leaves the state of its last sample; only that sample's positions read it.
        last = segments[..., -1:]  # [B, C, 1, 1, 1]
        before = torch.cat([last[:, :1], last[:, :-1]], dim=1)
        to_end = to_end * (segments == last)
        from_start = from_start * (segments == before)
        ends = F.pad(last[..., 0].permute(0, 2, 3, 1), (1, 0))  # [B, 1, 1, C + 1]
    added = (stepped * to_end[..., None]).transpose(3, 4).flatten(4)  # [B, C, G, Q, R P]
    states = b.transpose(-1, -2) @ added  # [B, C, G, N, R P]: what each chunk leaves

    # The state at the start of chunk i: what chunks j < i left, decayed over those between.
    by_head = torch.unflatten(states, -1, (shared, width)).permute(0, 2, 4, 1, 3, 5).flatten(4)
    passed = total.permute(0, 2, 3, 1).cumsum(-1)  # [B, G, R, C]
    between = _decay_between(F.pad(passed, (1, 0)), ends, stepped.dtype)[..., :-1, 1:]
    starts = torch.unflatten(between.tril(-1) @ by_head, -1, (-1, width))  # [B, G, R, C, N, P]
    starts = starts.permute(0, 3, 1, 4, 2, 5).flatten(4)  # [B, C, G, N, R P]

    read = torch.unflatten(c @ starts, -1, (shared, width)).transpose(3, 4)
    return read * from_start[..., None]


def causal_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, segments: Tensor | None = None
) -> Tensor:
    """Depthwise convolution over positions that looks back only, and only within a sample.

    Args:
        x: ``[B, S, D]``.
        weight: ``[D, taps]``; the last tap is the position itself.
        bias: ``[D]``.
        segments: ``[B, S]``; without it each sequence is one sample.

    Returns:
        ``[B, S, D]``.
    """
    length, taps = x.shape[1], weight.shape[1]
    padded = F.pad(x, (0, 0, taps - 1, 0))
    y = torch.zeros_like(x) if bias is None else bias
    for tap in range(taps):
        term = padded[:, tap : tap + length] * weight[:, tap]
        if segments is not None:
            earlier = F.pad(segments, (taps - 1, 0))[:, tap : tap + length]
            term = term * earlier.eq(segments)[..., None]
        y = y + term
    return y
