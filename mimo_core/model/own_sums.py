"""Weight gradients of megatron's own layers are added up in the matrix product."""

from __future__ import annotations

import torch
from megatron.core.tensor_parallel import layers


class Sums:
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
        layers.fused_weight_gradient_mlp_cuda = Sums
    layer.gradient_accumulation_fusion = True
