"""What ranks do for ``test_recompute.py``."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def biases(platform: Any) -> dict[str, Any]:
    """Gradients of a layer that gives its bias back, recomputed and not; and whether core's own
    recomputation makes that bias an output."""
    from megatron.core.tensor_parallel import checkpoint, random

    from mimo_core.megatron_patches.recompute import patch_recompute_bias_output

    def gradients(*, recomputed: bool) -> list[torch.Tensor]:
        weight, bias = nn.Parameter(torch.full((3,), 2.0)), nn.Parameter(torch.ones(3))
        x = torch.arange(3.0, requires_grad=True)

        def layer(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return (x * weight).square(), bias

        out, last = checkpoint(layer, False, x) if recomputed else layer(x)
        stock.append(bias.grad_fn is not None)
        if not stock[-1]:
            (out * last).sum().backward()
        return [tensor.grad for tensor in (x, weight, bias)]  # type: ignore[misc]

    random.initialize_rng_tracker(force_reset=True)
    stock: list[bool] = []
    gradients(recomputed=True)
    patch_recompute_bias_output()
    plain, again = gradients(recomputed=False), gradients(recomputed=True)
    return {
        "stock": stock,
        "plain": [g.tolist() for g in plain],
        "again": [g.tolist() for g in again],
    }
