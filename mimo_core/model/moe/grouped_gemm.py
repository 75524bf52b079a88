"""Products of a group of experts' weights in one kernel, whose groups the GPU alone knows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F


def grouped_product(
    rows: torch.Tensor, ends: torch.Tensor, weights: Sequence[torch.nn.Parameter]
) -> torch.Tensor:
    """Multiply groups of rows by a weight each.

    TransformerEngine 2.20 multiplies each group by itself on GPUs before Blackwell: with 16 experts
    of 2688 x 1856 the host takes 1.4 ms for what an H200 computes in 0.4, and it must be told the
    groups' sizes, for which it waits.

    Args:
        rows: ``[N, in]``, the groups one after another.
        ends: ``[experts]`` int32, beside the rows: where each group ends; the last is N.
        weights: ``[out, in]`` each. Where one has a ``main_grad`` that it is to be added to
            (``grad_added_to_main_grad``), its gradient is, and autograd gets an empty one.

    Returns:
        ``[N, out]``.
    """
    product: torch.Tensor = _GroupedProduct.apply(rows, ends, *weights)
    return product


class _GroupedProduct(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, rows: torch.Tensor, ends: torch.Tensor, *weights: torch.nn.Parameter
    ) -> torch.Tensor:
        ctx.save_for_backward(rows, ends)
        ctx.weights = weights
        if not len(rows):
            return rows.new_empty(0, len(weights[0]))
        return F.grouped_mm(rows, stacked(weights).transpose(1, 2), offs=ends)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, ends = ctx.saved_tensors
        weights: tuple[torch.nn.Parameter, ...] = ctx.weights
        gradient = gradients[0].contiguous()
        of_rows = None
        if ctx.needs_input_grad[0]:
            of_rows = rows.new_empty(0, rows.shape[1])
            if len(rows):
                of_rows = F.grouped_mm(gradient, stacked(weights), offs=ends)
        if not any(ctx.needs_input_grad[2:]):
            return (of_rows, None, *(None for _ in weights))
        own = all(hasattr(weight, "main_grad") for weight in weights)
        if len(rows):
            of_weights = F.grouped_mm(gradient.t(), rows, offs=ends)
        else:
            of_weights = rows.new_zeros(len(weights), *weights[0].shape)
        if not own:
            return (of_rows, None, *_without_empty(of_weights, ends).unbind())
        if len(rows):
            add(of_weights, ends, [weight.main_grad for weight in weights])
        for weight in weights:
            weight.grad_added_to_main_grad = True  # type: ignore[attr-defined]
        # Megatron's hooks want a gradient to throw away.
        nothing = _nothing(weights[0].shape, weights[0].dtype, weights[0].device)
        return (of_rows, None, *(nothing.detach() for _ in weights))


@cache
def _nothing(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device=device)


def stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors of one shape as one, ``[number, *shape]``: themselves where they lie in memory one
    after another (``lay_out``), else a copy."""
    view = _view(tensors)
    return torch.stack([each.detach() for each in tensors]) if view is None else view


def add(sums: torch.Tensor, ends: torch.Tensor, to: Sequence[torch.Tensor]) -> None:
    """Add ``sums[i]`` to ``to[i]`` but for groups without rows: all in one kernel where those lie
    one after another."""
    view = _view(to)
    if view is not None and view.is_contiguous() and sums.is_cuda:
        from mimo_core.model.moe.grad_accumulate_kernel import grouped_add_

        grouped_add_(view, sums, ends)
        return
    for part, whole in zip(_without_empty(sums, ends).unbind(), to, strict=True):
        whole.add_(part)


def _without_empty(sums: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Zeros where a group has no rows: on Blackwell GPUs torch's products are wrong there
    (pytorch issue 172439)."""
    empty = ends.diff(prepend=ends.new_zeros(1)) == 0
    return sums.masked_fill(empty[:, None, None], 0)


def lay_out(linear: torch.nn.Module) -> None:
    """Have a layer's weights lie one after another, in memory of their own and in megatron's
    buffers; before wrapping. Names, and so checkpoints, are the same.

    Buffers take parameters from the last to the first (core 0.19, ``_ParamAndGradBuffer``), so the
    layer's are registered in that order. Weights that do not learn are in no buffer.
    """
    parameters = linear._parameters
    names = [name for name in parameters if name.startswith("weight")]
    for name in reversed(names):
        parameters[name] = parameters.pop(name)
    weights = [weight for name in names if (weight := parameters[name]) is not None]
    # On the meta device there is nothing to lie anywhere; quantized weights are not of one piece.
    if weights and not weights[0].is_meta and type(weights[0].data) is torch.Tensor:
        for weight, place in zip(weights, torch.stack([*weights]).detach(), strict=True):
            weight.data = place


def _view(tensors: Sequence[torch.Tensor]) -> torch.Tensor | None:
    first = tensors[0].detach()
    if not first.is_contiguous():
        return None
    places = [each.data_ptr() for each in tensors]
    steps = {after - before for before, after in pairwise(places)}
    step = steps.pop() if steps else first.nbytes
    together = {each.untyped_storage().data_ptr() for each in tensors}
    if steps or step < first.nbytes or step % first.element_size() or len(together) > 1:
        return None
    if any(each.shape != first.shape or not each.is_contiguous() for each in tensors):
        return None
    strides = (step // first.element_size(), *first.stride())
    return first.as_strided((len(tensors), *first.shape), strides)
