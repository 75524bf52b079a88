"""Recomputed activations against kept ones; only here megatron is imported."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from nemotron_modules import BATCH, SEQUENCE
from nemotron_ranks import Built, tokens
from packed_ranks import packing
from torch import Tensor, nn

from mimo_core.contract import Grid


def two_ranks(platform: Any, settings: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Of each setting from none: largest differences, and which parts run twice."""
    return {name: _compare(platform, given) for name, given in settings.items()}


def _compare(platform: Any, fields: dict[str, Any]) -> dict[str, Any]:
    kept, recomputed = (_step(platform, given) for given in (None, fields))
    return {
        "losses": (kept[0] - recomputed[0]).abs().max().item(),
        "gradients": max(
            (a - b).abs().max().item() for a, b in zip(kept[1], recomputed[1], strict=True)
        ),
        "twice": sorted(name for name in kept[2] if recomputed[2][name] == 2 * kept[2][name]),
    }


def _step(
    platform: Any, megatron: dict[str, Any] | None
) -> tuple[Tensor, list[Tensor], Counter[str]]:
    """Losses, gradients and how often each part ran, with dropout, padded and then packed."""
    built = Built(platform, Grid(tp=2), megatron, dropout=0.1)
    ran: Counter[str] = Counter()
    for name, module in built.model.named_modules():
        module.register_forward_hook(_counter(ran, name))
    built.reseed()
    torch.manual_seed(7)
    ids = tokens()
    labels = ids.roll(-1, 1)
    padded = built.losses(ids, labels)
    packed = built.losses(ids.view(1, -1), labels.view(1, -1), packing([SEQUENCE] * BATCH))
    (padded.sum() + packed.sum()).backward()
    gradients = [p.grad for p in built.model.parameters() if p.grad is not None]
    return torch.cat([padded.flatten(), packed.flatten()]).detach(), gradients, ran


def _counter(ran: Counter[str], name: str) -> Any:
    def count(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        ran[name] += 1

    return count
