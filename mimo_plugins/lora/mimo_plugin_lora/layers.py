"""A linear layer with an adapter: megatron's, TransformerEngine's or torch's, changed in place.

``y = W x + scale * B (A x)``. Where the layer's rows are divided over tp (column parallel) B is
divided and every rank has A whole; where its columns are (row parallel), A is divided. What travels
between the ranks is ``rank`` wide.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    gather_from_tensor_model_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
    scatter_to_tensor_model_parallel_region,
)
from torch import Tensor, nn

Kind = Literal["column", "row", "whole"]
"""How the layer's weight lies on tp ranks."""

_SHARED = ("tensor_model_parallel", "partition_dim", "partition_stride", "allreduce")
"""What megatron reads of a parameter: for gradient norms, and for whose gradients it sums."""


def kind_of(layer: nn.Module) -> Kind | None:
    """How an adapter goes with the layer; ``None`` where none does."""
    if isinstance(layer, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return None  # torch's attention reads its weight and never calls it
    if isinstance(layer, nn.Linear):
        return "whole"
    if isinstance(layer, ColumnParallelLinear):
        return "column"
    if isinstance(layer, RowParallelLinear):
        return "row"
    if _is_engines(layer):
        names = {base.__name__ for base in type(layer).__mro__}
        if names & {"TEColumnParallelLinear", "TELayerNormColumnParallelLinear"}:
            return "column"
        return "row" if "TERowParallelLinear" in names else "whole"
    return None


def _is_engines(layer: nn.Module) -> bool:
    """One of TransformerEngine's linear layers with one weight; it may not be installed."""
    names = {f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in type(layer).__mro__}
    return bool(names & {"transformer_engine.Linear", "transformer_engine.LayerNormLinear"})


class Adapted:
    """Put before the class of a linear layer by :func:`adapt`."""

    lora_a: nn.Parameter
    """``[rank, in]``; row parallel: this rank's columns."""
    lora_b: nn.Parameter
    """``[out, rank]``; column parallel: this rank's rows."""
    lora_kind: Kind
    lora_scale: float

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """What the layer gives, with the adapter's part added before the bias that it may give
        apart."""
        out = super().forward(x, *args, **kwargs)  # type: ignore[misc]
        delta = self.lora_scale * _delta(self, x, kwargs.get("runtime_gather_output"))
        if isinstance(out, tuple):
            return (out[0] + delta, *out[1:])
        return out + delta


def adapt(layer: Any, kind: Kind, rank: int, scale: float, seed: str) -> None:
    """Give a layer an adapter that adds nothing yet: B is zero.

    Args:
        layer: A linear layer with a weight of its own.
        kind: See :func:`kind_of`.
        rank: Of the adapter.
        scale: Of its sum.
        seed: A is drawn from it, whole, whatever the grid is.
    """
    weight: nn.Parameter = layer.weight
    size, number = tp_of(layer)
    rows, columns = weight.shape
    whole = columns * size if kind == "row" else columns
    bound = 1 / math.sqrt(whole)
    digest = hashlib.sha256(seed.encode()).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") % 2**63)
    a = torch.empty(rank, whole, device="cpu").uniform_(-bound, bound, generator=generator)
    if kind == "row":
        a = a[:, number * columns : (number + 1) * columns].contiguous()
    layer.lora_a = nn.Parameter(a.to(weight.device, weight.dtype))
    layer.lora_b = nn.Parameter(weight.new_zeros(rows, rank))
    divided, copied = divided_of(layer, kind), copied_of(layer, kind)
    for name in _SHARED:
        if hasattr(weight, name):
            setattr(divided, name, getattr(weight, name))
    for name in _SHARED if size == 1 else ("allreduce",):
        # On one tp rank there are no copies: an expert of its own is counted on every rank.
        if hasattr(weight, name):
            setattr(copied, name, getattr(weight, name))
    if kind == "whole" and getattr(weight, "sequence_parallel", False):
        divided.sequence_parallel = True
    if getattr(weight, "sequence_parallel", False) or (size > 1 and _sequence_parallel(layer)):
        # Its gradient on a rank is of the rank's part of the sequence; megatron sums them.
        copied.sequence_parallel = True
    layer.lora_kind, layer.lora_scale = kind, scale
    base = type(layer)
    layer.__class__ = type(f"{base.__name__}WithLora", (Adapted, base), {})


def divided_of(layer: Any, kind: Kind) -> Any:
    """The matrix that lies on ranks as the weight does."""
    return layer.lora_a if kind == "row" else layer.lora_b


def copied_of(layer: Any, kind: Kind) -> Any:
    """The matrix that every tp rank has whole."""
    return layer.lora_b if kind == "row" else layer.lora_a


def tp_of(layer: Any) -> tuple[int, int]:
    """Tensor-parallel ranks that share the layer, and this one's number among them."""
    group = _group(layer)
    return (1, 0) if group is None else (group.size(), group.rank())


def whole_shape(layer: Any) -> tuple[int, int]:
    """Rows and columns of the layer's weight over all tp ranks."""
    rows, columns = layer.weight.shape
    kind, size = kind_of(layer), tp_of(layer)[0]
    return (
        rows * size if kind == "column" else rows,
        columns * size if kind == "row" else columns,
    )


def _group(layer: Any) -> Any:
    if isinstance(layer, nn.Linear):
        return None
    group = getattr(layer, "_tp_group", None)
    return group if group is not None else getattr(layer, "tp_group", None)


def _outside(layer: Any) -> bool:
    """Whether others gather the layer's input and sum its output, and the gradients, over tp."""
    if hasattr(layer, "parallel_mode"):  # TransformerEngine's
        return layer.parallel_mode is None
    if layer.explicit_expert_comm:
        return True
    return bool(getattr(layer, "disable_grad_reduce", False)) and not layer.sequence_parallel


def _sequence_parallel(layer: Any) -> bool:
    return bool(getattr(layer, "sequence_parallel", False)) and not _outside(layer)


def _delta(layer: Any, x: Tensor, gather: bool | None) -> Tensor:
    """``B (A x)`` as the layer's own output lies on tp ranks."""
    kind: Kind = layer.lora_kind
    a, b = layer.lora_a, layer.lora_b
    if hasattr(layer, "layer_norm_weight"):
        x = _normed(layer, x)
    group = _group(layer)
    if group is None or group.size() == 1 or kind == "whole":
        return F.linear(F.linear(x, a), b)
    if kind == "row":
        if not getattr(layer, "input_is_parallel", True):
            x = scatter_to_tensor_model_parallel_region(x, group=group)
        inner = F.linear(x, a)
        if _outside(layer):
            # The sums are made outside, so B's gradient is one rank's part of them.
            return F.linear(inner, copy_to_tensor_model_parallel_region(b, group=group))
        if _sequence_parallel(layer):
            inner = reduce_scatter_to_sequence_parallel_region(inner, group=group)
        else:
            inner = reduce_from_tensor_model_parallel_region(inner, group=group)
        return F.linear(inner, b)
    if _outside(layer):
        inner = F.linear(x, copy_to_tensor_model_parallel_region(a, group=group))
    elif _sequence_parallel(layer):
        inner = gather_from_sequence_parallel_region(F.linear(x, a), group=group)
    else:
        inner = copy_to_tensor_model_parallel_region(F.linear(x, a), group=group)
    out = F.linear(inner, b)
    if gather if gather is not None else getattr(layer, "gather_output", False):
        out = gather_from_tensor_model_parallel_region(out, group=group)
    return out  # type: ignore[no-any-return]


def _normed(layer: Any, x: Tensor) -> Tensor:
    """The norm that TransformerEngine's layer makes inside, once more: ``[S, B, H]``."""
    weight = layer.layer_norm_weight.float()
    if layer.zero_centered_gamma:
        weight = weight + 1
    if layer.normalization == "RMSNorm":
        normed = F.rms_norm(x.float(), weight.shape, weight, layer.eps)
    else:
        bias = layer.layer_norm_bias.float()
        normed = F.layer_norm(x.float(), weight.shape, weight, bias, layer.eps)
    return normed.to(x.dtype)
