"""Weight gradients of megatron's own layers are added up where they are computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel import VocabParallelEmbedding, layers
from torch.overrides import TorchFunctionMode


class WgradGemmAccumulator:
    """What core 0.19 expects of APEX's ``fused_weight_gradient_mlp_cuda``; torch can do it now."""

    @staticmethod
    def wgrad_gemm_accum_fp32(
        rows: torch.Tensor, gradient: torch.Tensor, whole: torch.Tensor
    ) -> None:
        """Add the gradient of a weight to those of earlier microbatches.

        Args:
            rows: The layer's input, ``[N, in]``.
            gradient: Of its output, ``[N, out]``.
            whole: ``[out, in]``, changed in place.
        """
        if rows.dtype is whole.dtype:
            whole.addmm_(gradient.t(), rows)
        else:
            torch.addmm(whole, gradient.t(), rows, out_dtype=whole.dtype, out=whole)

    wgrad_gemm_accum_fp16 = wgrad_gemm_accum_fp32


def add_up(layer: torch.nn.Module) -> None:
    """Have one of core's layers add in the product; APEX's kernel does it where it is installed."""
    if not hasattr(layers, "fused_weight_gradient_mlp_cuda"):
        layers.fused_weight_gradient_mlp_cuda = WgradGemmAccumulator
    layer.gradient_accumulation_fusion = True


def add_rows(layer: VocabParallelEmbedding) -> None:
    """Have core's embedding add gradients to the rows that were looked up, and to no others.

    Core 0.19 leaves it to autograd, which makes a gradient of the whole table in every microbatch,
    and its hook adds the whole table. Autograd gets a gradient without a row instead: what else the
    weight is used for, as the output's in a tied model, goes its way beside it.
    """
    stock: Callable[[torch.Tensor], torch.Tensor] = layer.forward

    def forward(input_: torch.Tensor) -> torch.Tensor:
        with _RowsOf(layer.weight):
            return stock(input_)

    layer.forward = forward


class _RowsOf(TorchFunctionMode):
    """Looks rows of one weight up by :class:`_Rows` (core 0.19 gives the look-up no options);
    everything else is as ever."""

    def __init__(self, weight: torch.nn.Parameter) -> None:
        super().__init__()
        self._weight = weight

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.embedding and args[1] is self._weight:
            sums = getattr(self._weight, "main_grad", None)
            # Sums in bf16 would round at every row, autograd's at the last of equal ones alone.
            if sums is not None and sums.dtype is torch.float32:
                return _Rows.apply(args[0], self._weight)
        return func(*args, **(kwargs or {}))


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: torch.Tensor, weight: torch.nn.Parameter) -> torch.Tensor:  # type: ignore[override]
        ctx.save_for_backward(ids)
        ctx.weight = weight
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, torch.Tensor]:
        (ids,) = ctx.saved_tensors
        weight = ctx.weight
        rows = gradients[0].flatten(0, -2).to(weight.main_grad.dtype)
        weight.main_grad.index_add_(0, ids.flatten(), rows)
        nothing = torch.empty(
            weight.shape, layout=torch.sparse_coo, dtype=weight.dtype, device=weight.device
        )
        return None, nothing
