"""Heads of another size: filled up with zeros, and cut to what they were."""

from __future__ import annotations

from typing import Any

import torch


def fill(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``[N, heads, given]`` each, to ``[N, heads, size]``.

    Their gradients come back side by side in one tensor, ``[N, heads, 3 * given]``, as the layer
    before put them out: TransformerEngine joins them without a copy.
    """
    filled: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = _Fill.apply(size, query, key, value)
    return filled


def side_by_side(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same three, whose gradients come back in one tensor as those of `fill` do."""
    same: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = _SideBySide.apply(query, key, value)
    return same


def cut(heads: torch.Tensor, size: int) -> torch.Tensor:
    """``[N, heads, given]`` to ``[N, heads, size]``, contiguous."""
    small: torch.Tensor = _Cut.apply(size, heads)
    return small


class _Fill(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, size: int, *parts: torch.Tensor) -> tuple[torch.Tensor, ...]:  # type: ignore[override]
        ctx.given = parts[0].shape[-1]
        filled = tuple(part.new_empty(*part.shape[:-1], size) for part in parts)
        for part, target in zip(parts, filled, strict=True):
            _copy_heads(part, target)
        return filled

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (None, *_join(gradients, ctx.given))


class _SideBySide(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *parts: torch.Tensor) -> tuple[torch.Tensor, ...]:  # type: ignore[override]
        return tuple(part.view_as(part) for part in parts)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return _join(gradients, gradients[0].shape[-1])


class _Cut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, size: int, heads: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        ctx.given = heads.shape[-1]
        target = heads.new_empty(*heads.shape[:-1], size)
        _copy_heads(heads, target)
        return target

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, torch.Tensor]:
        (gradient,) = gradients
        whole = gradient.new_empty(*gradient.shape[:-1], ctx.given)
        _copy_heads(gradient, whole)
        return None, whole


def _join(gradients: tuple[torch.Tensor, ...], size: int) -> tuple[torch.Tensor, ...]:
    """``[N, heads, given]`` each, to parts ``[N, heads, size]`` of one tensor."""
    rows, heads, _ = gradients[0].shape
    joined = gradients[0].new_empty(rows, heads, len(gradients) * size)
    parts = joined.split(size, dim=-1)
    for gradient, target in zip(gradients, parts, strict=True):
        _copy_heads(gradient, target)
    return parts


def _copy_heads(source: torch.Tensor, target: torch.Tensor) -> None:
    """What fits of ``[N, heads, given]`` into ``[N, heads, wanted]``, and zeros behind it."""
    if source.is_cuda:
        from mimo_plugin_radio.head_kernels import copy_heads

        copy_heads(source, target)
        return
    size = min(source.shape[-1], target.shape[-1])
    target.zero_()
    target[..., :size] = source[..., :size]
