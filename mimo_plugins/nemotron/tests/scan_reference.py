"""The Mamba2 operations from their definitions, one position after the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

UNLIMITED = (0.0, float("inf"))


def recurrence(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Shapes as ``scan.chunked_scan``."""
    heads, width = x.shape[2:]
    b, c = (t.repeat_interleave(heads // t.shape[2], dim=2) for t in (b, c))
    state = x.new_zeros(x.shape[0], heads, width, b.shape[-1])
    outputs = []
    for t in range(x.shape[1]):
        kept = torch.exp(dt[:, t] * a)[..., None, None] * state
        state = kept + (dt[:, t, :, None] * x[:, t])[..., None] * b[:, t, :, None]
        outputs.append((state * c[:, t, :, None]).sum(-1))
    return torch.stack(outputs, dim=1)


def numbered(lengths: Sequence[int]) -> Tensor:
    """int32 ``[S]``: the sample of each position."""
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).int()


def gated_mixer(
    inputs: dict[str, Tensor],
    *,
    width: int,
    groups: int,
    dt_limit: tuple[float, float] = UNLIMITED,
    lengths: Sequence[int] | None = None,
) -> Tensor:
    """The mixer between its projections, gated and not normalized; each sample by itself.

    Args:
        inputs: Tensors by the names of ``mamba_split_conv1d_scan_combined``.
        width: Features of a head.
        groups: Groups of B and C.
        lengths: Of the samples that lie end to end.
    """
    samples = inputs["zxbcdt"].split(lengths or inputs["zxbcdt"].shape[1], dim=1)
    return torch.cat([_sample(s, inputs, width, groups, dt_limit) for s in samples], dim=1)


def _sample(
    zxbcdt: Tensor,
    inputs: dict[str, Tensor],
    width: int,
    groups: int,
    dt_limit: tuple[float, float],
) -> Tensor:
    weight, bias = inputs["conv1d_weight"], inputs["conv1d_bias"]
    heads, (channels, taps) = len(inputs["A"]), weight.shape
    inner, length = heads * width, zxbcdt.shape[1]
    z, xbc, dt = zxbcdt.split([inner, channels, heads], dim=-1)
    xbc = F.conv1d(xbc.mT, weight[:, None], bias, padding=taps - 1, groups=channels)
    xbc = F.silu(xbc[..., :length].mT)
    x, b, c = xbc.split([inner, (channels - inner) // 2, (channels - inner) // 2], dim=-1)
    x = x.unflatten(-1, (heads, width))
    b, c = (t.unflatten(-1, (groups, -1)) for t in (b, c))
    dt = F.softplus(dt + inputs["dt_bias"]).clamp(*dt_limit)
    skip = inputs["D"] if inputs["D"].dim() == 2 else inputs["D"][:, None]
    y = recurrence(x, dt, inputs["A"], b, c) + x * skip
    return y.flatten(2) * F.silu(z)


def gated_norm(
    x: Tensor, z: Tensor, weight: Tensor, *, eps: float, group: int, norm_before_gate: bool
) -> Tensor:
    """RMS norm of each ``group`` features of ``[..., D]``, and the gate."""
    gated = x if norm_before_gate else x * F.silu(z)
    parts = [p / (p.pow(2).mean(-1, keepdim=True) + eps).sqrt() for p in gated.split(group, -1)]
    normed = torch.cat(parts, dim=-1) * weight
    return normed * F.silu(z) if norm_before_gate else normed
