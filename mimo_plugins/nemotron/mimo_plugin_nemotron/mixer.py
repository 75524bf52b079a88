"""What megatron's ``MambaMixer`` asks of ``mamba_ssm``, in pure torch.

What the operations are called, and the names of their arguments, is that of ``mamba_ssm`` 2.3;
those that the mixer gives by name are taken by name only. Shapes as in ``scan``.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimo_core import MimoError
from mimo_plugin_nemotron import scan

_UNLIMITED = (0.0, float("inf"))
_LARGEST_CHUNK = 64
"""Longer chunks cost more on a CPU: their [Q, Q] products no longer stay in its caches."""


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
    seq_idx: Tensor | None = None,
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
        seq_idx: ``[B, S]``: the sample of each position, where samples lie end to end.
        dt_limit: Bounds of the step sizes.
        rmsnorm_weight: ``[H P]``: the gate is applied with a norm of ``G`` groups.

    Returns:
        ``[B, S, H P]`` in the dtype of ``zxbcdt``.

    Raises:
        MimoError: an argument is set that the CPU's operation has no meaning for.
    """
    unsupported = {
        "initial_states": initial_states,
        "return_final_states": return_final_states or None,
        "outproj_weight": outproj_weight,
        "outproj_bias": outproj_bias,
        "activation": None if activation in ("silu", "swish") else activation,
    }
    if given := [name for name, value in unsupported.items() if value is not None]:
        raise MimoError(
            f"the Mamba2 scan on a CPU does not know {', '.join(given)}: leave them at their "
            "defaults, or train on a GPU with mamba_ssm",
            code="nemotron.cpu-scan",
            arguments=tuple(given),
        )
    heads = A.shape[0]
    width = headdim if headdim is not None else D.shape[1]
    inner = heads * width
    channels = conv1d_weight.shape[0]
    projected = _wide(zxbcdt)
    z, xbc, dt = torch.split(projected, [inner, channels, heads], dim=-1)
    bias = None if conv1d_bias is None else _wide(conv1d_bias)
    xbc = F.silu(scan.causal_convolution(xbc, _wide(conv1d_weight), bias, seq_idx))
    bc_width = (channels - inner) // 2
    x, b, c = torch.split(xbc, [inner, bc_width, bc_width], dim=-1)
    x = torch.unflatten(x, -1, (heads, width))
    dt = F.softplus(dt + dt_bias)
    if dt_limit != _UNLIMITED:
        dt = dt.clamp(*dt_limit)
    b, c = (torch.unflatten(t, -1, (ngroups, -1)) for t in (b, c))
    chunk = min(chunk_size, _LARGEST_CHUNK)
    y = scan.chunked_scan(x, dt, A, b, c, chunk=chunk, segments=seq_idx)
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
