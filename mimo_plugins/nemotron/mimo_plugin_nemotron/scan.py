"""The Mamba2 mixer's operations in pure torch, with gradients by autograd.

The scan is the chunked state-space dual of T. Dao and A. Gu, "Transformers are SSDs" (arXiv
2405.21060, listing 1), arranged so that B and C are never repeated over the heads of a group:
every large product is a batched matrix product over (chunk, group). What the operations are
called, and the names of their arguments, is what megatron's ``MambaMixer`` asks of ``mamba_ssm``
2.3; those that it gives by name are taken by name only.

Shapes: ``B`` sequences, ``S`` positions, ``H`` heads of width ``P`` in ``G`` groups of ``R``,
``N`` state size, ``C`` chunks of ``Q`` positions.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_UNLIMITED = (0.0, float("inf"))
_LARGEST_CHUNK = 64
"""Longer chunks cost more on a CPU: their [Q, Q] products no longer stay in its caches."""


def chunked_scan(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, *, chunk: int) -> Tensor:
    """The recurrence ``h_t = exp(dt_t a) h_{t-1} + dt_t b_t x_t``, ``y_t = c_t h_t``, by chunks.

    Args:
        x: ``[B, S, H, P]``.
        dt: Step sizes ``[B, S, H]``, positive.
        a: Decay rates ``[H]``, negative.
        b: ``[B, S, G, N]``.
        c: ``[B, S, G, N]``.
        chunk: Positions of a chunk, at most; the last chunk is padded.

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

    # [B, C, G, R, Q]: sum of the log decays of a chunk, up to and with each position.
    decay = (dt * a).view(batch, chunks, chunk, groups, shared).permute(0, 1, 3, 4, 2).cumsum(-1)
    stepped = (x * dt[..., None]).view(batch, chunks, chunk, groups, shared, width)
    stepped = stepped.permute(0, 1, 3, 4, 2, 5)  # [B, C, G, R, Q, P]
    b = b.view(batch, chunks, chunk, groups, state).transpose(2, 3)  # [B, C, G, Q, N]
    c = c.view(batch, chunks, chunk, groups, state).transpose(2, 3)

    # Within each chunk.
    scores = (c @ b.transpose(-1, -2))[:, :, :, None] * _decay_between(decay)
    y = scores @ stepped  # [B, C, G, R, Q, P]
    if chunks > 1:
        y = y + _from_earlier_chunks(stepped, decay, b, c)
    y = y.permute(0, 1, 4, 2, 3, 5).reshape(batch, chunks * chunk, heads, width)
    return y[:, :length]


def _pad_positions(tensor: Tensor, padding: int) -> Tensor:
    """Zeros behind the last of the positions (dim 1): they neither decay nor add anything."""
    return F.pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, padding))


def _decay_between(decay: Tensor) -> Tensor:
    """``exp(decay_i - decay_j)`` for ``i >= j``, else 0: ``[..., Q] -> [..., Q, Q]``."""
    length = decay.shape[-1]
    later = torch.ones(length, length, dtype=torch.bool, device=decay.device).triu(1)
    difference = decay[..., :, None] - decay[..., None, :]
    return difference.masked_fill(later, -torch.inf).exp()


def _from_earlier_chunks(stepped: Tensor, decay: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """What the states left by earlier chunks add: ``[B, C, G, R, Q, P]``; shapes as above."""
    shared, width = stepped.shape[3], stepped.shape[-1]
    total = decay[..., -1]  # [B, C, G, R]
    to_end = (total[..., None] - decay).exp()[..., None]
    added = (stepped * to_end).transpose(3, 4).flatten(4)  # [B, C, G, Q, R P]
    states = b.transpose(-1, -2) @ added  # [B, C, G, N, R P]: what each chunk leaves

    # The state at the start of chunk i: what chunks j < i left, decayed over those between.
    by_head = torch.unflatten(states, -1, (shared, width)).permute(0, 2, 4, 1, 3, 5).flatten(4)
    passed = total.permute(0, 2, 3, 1).cumsum(-1)  # [B, G, R, C]
    between = _decay_between(F.pad(passed, (1, 0)))[..., :-1, 1:]
    starts = torch.unflatten(between.tril(-1) @ by_head, -1, (-1, width))  # [B, G, R, C, N, P]
    starts = starts.permute(0, 3, 1, 4, 2, 5).flatten(4)  # [B, C, G, N, R P]

    read = torch.unflatten(c @ starts, -1, (shared, width)).transpose(3, 4)
    return read * decay.exp()[..., None]


def causal_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Depthwise convolution over positions that looks back only.

    Args:
        x: ``[B, S, D]``.
        weight: ``[D, taps]``; the last tap is the position itself.
        bias: ``[D]``.

    Returns:
        ``[B, S, D]``.
    """
    length, taps = x.shape[1], weight.shape[1]
    padded = F.pad(x, (0, 0, taps - 1, 0))
    terms = (padded[:, tap : tap + length] * weight[:, tap] for tap in range(taps))
    y = sum(terms, start=bias if bias is not None else torch.zeros_like(x))
    assert isinstance(y, Tensor)
    return y


def gated_rms_norm(
    x: Tensor,
    weight: Tensor,
    gate: Tensor | None,
    *,
    eps: float,
    group_size: int,
    norm_before_gate: bool,
) -> Tensor:
    """RMS norm of each group of ``group_size`` features of ``[..., D]``, gated by silu(gate)."""
    dtype = x.dtype
    x = _wide(x)
    if gate is not None and not norm_before_gate:
        x = x * F.silu(_wide(gate))
    grouped = torch.unflatten(x, -1, (-1, group_size))
    grouped = grouped * torch.rsqrt(grouped.square().mean(-1, keepdim=True) + eps)
    x = grouped.flatten(-2) * _wide(weight)
    if gate is not None and norm_before_gate:
        x = x * F.silu(_wide(gate))
    return x.to(dtype)


class GatedRMSNorm(nn.Module):
    """Stands for ``mamba_ssm.ops.triton.layernorm_gated.RMSNorm``."""

    def __init__(
        self,
        hidden_size: int,
        *,
        eps: float = 1e-5,
        group_size: int | None = None,
        norm_before_gate: bool = True,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.group_size = group_size or hidden_size
        self.norm_before_gate = norm_before_gate
        self.weight = nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        return gated_rms_norm(
            x,
            self.weight,
            z,
            eps=self.eps,
            group_size=self.group_size,
            norm_before_gate=self.norm_before_gate,
        )


def mamba_split_conv1d_scan_combined(
    zxbcdt: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    dt_bias: Tensor,
    A: Tensor,
    *,
    D: Tensor,
    chunk_size: int,
    initial_states: None = None,
    seq_idx: None = None,
    dt_limit: tuple[float, float] = _UNLIMITED,
    return_final_states: Literal[False] = False,
    activation: str = "silu",
    rmsnorm_weight: Tensor | None = None,
    rmsnorm_eps: float = 1e-6,
    outproj_weight: None = None,
    outproj_bias: None = None,
    headdim: int | None = None,
    ngroups: int = 1,
    norm_before_gate: bool = True,
) -> Tensor:
    """Everything of a Mamba2 mixer between its two projections; float32 inside.

    Args:
        zxbcdt: ``[B, S, 2 H P + 2 G N + H]``: gate, x, B, C and step sizes.
        conv1d_weight: ``[H P + 2 G N, taps]``.
        conv1d_bias: ``[H P + 2 G N]``.
        dt_bias: ``[H]``.
        A: ``[H]``, negative.
        D: ``[H]`` (then ``headdim`` is needed) or ``[H, P]``.
        dt_limit: Bounds of the step sizes.
        rmsnorm_weight: ``[H P]``: the gate is applied with a norm of ``G`` groups.

    Returns:
        ``[B, S, H P]`` in the dtype of ``zxbcdt``.

    Raises:
        ValueError: an argument is set that the CPU's operation has no meaning for.
    """
    unsupported = {
        "initial_states": initial_states,
        "seq_idx": seq_idx,
        "return_final_states": return_final_states or None,
        "outproj_weight": outproj_weight,
        "outproj_bias": outproj_bias,
        "activation": None if activation in ("silu", "swish") else activation,
    }
    if given := [name for name, value in unsupported.items() if value is not None]:
        raise ValueError(
            f"the Mamba2 scan on a CPU does not know {', '.join(given)}: train with unpacked "
            "sequences and silu, or on a GPU with mamba_ssm"
        )
    heads = A.shape[0]
    width = headdim if headdim is not None else D.shape[1]
    inner = heads * width
    channels = conv1d_weight.shape[0]
    projected = _wide(zxbcdt)
    z, xbc, dt = torch.split(projected, [inner, channels, heads], dim=-1)
    bias = None if conv1d_bias is None else _wide(conv1d_bias)
    xbc = F.silu(causal_convolution(xbc, _wide(conv1d_weight), bias))
    bc_width = (channels - inner) // 2
    x, b, c = torch.split(xbc, [inner, bc_width, bc_width], dim=-1)
    x = torch.unflatten(x, -1, (heads, width))
    dt = F.softplus(dt + dt_bias)
    if dt_limit != _UNLIMITED:
        dt = dt.clamp(*dt_limit)
    b, c = (torch.unflatten(t, -1, (ngroups, -1)) for t in (b, c))
    y = chunked_scan(x, dt, A, b, c, chunk=min(chunk_size, _LARGEST_CHUNK))
    y = (y + x * (D if D.dim() > 1 else D[:, None])).flatten(2)
    if rmsnorm_weight is None:
        y = y * F.silu(z)
    else:
        y = gated_rms_norm(
            y,
            rmsnorm_weight,
            z,
            eps=rmsnorm_eps,
            group_size=inner // ngroups,
            norm_before_gate=norm_before_gate,
        )
    return y.to(zxbcdt.dtype)


def mamba_chunk_scan_combined(*_args: Any, **_kwargs: Any) -> Tensor:
    """``MambaMixer`` imports this for inference with a state cache, which the CPU has not."""
    raise NotImplementedError(
        "inference with a state cache needs mamba_ssm on a GPU; on a CPU run the whole sequence"
    )


def _wide(tensor: Tensor) -> Tensor:
    """At least float32."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
