"""The dynamic tower of TransformerEngine layers on a GPU; results go back as JSON values."""

from __future__ import annotations

from typing import Any

import torch
from mimo_plugin_radio import even
from radio_tiny import tiny_module
from ranks_common import build_model, make_groups, random_batch

from mimo_core import Grid

SIZES = [(32, 48)] * 3


def even_pictures(platform: Any) -> dict[str, Any]:
    """Heads as large as ViT-H's, in bf16: as a batch, and packed as unlike pictures are."""
    groups = make_groups({"vision": Grid()}, platform)["vision"]
    module = tiny_module(resolution="dynamic", hidden_size=160, precision="bf16")
    tower = build_model(module, groups, platform)["tower"].to(platform.device)
    batch = {
        name: value.to(platform.device) if isinstance(value, torch.Tensor) else value
        for name, value in random_batch(SIZES, tower.options).items()
    }
    for _ in range(even.OFTEN):
        found = {"batch": _run(tower, batch)}
    stands_before = even.EvenPictures.forward
    del even.EvenPictures.forward
    try:
        found["packed"] = _run(tower, batch)
    finally:
        even.EvenPictures.forward = stands_before
    rows, gradients = zip(*(found[name] for name in ("batch", "packed")), strict=True)
    return {
        "class": [kind.__name__ for kind in _attention(tower).__mro__[:3]],
        "rows": _share(*rows),
        "gradients": max(_share(gradients[0][name], gradients[1][name]) for name in gradients[0]),
    }


def flash_attention(platform: Any) -> dict[str, Any]:
    """The same by flash-attn-4, of pictures of several sizes, and of one."""
    groups = make_groups({"vision": Grid()}, platform)["vision"]
    found: dict[str, list[Any]] = {"several": [], "one": []}
    weights: dict[str, torch.Tensor] = {}
    for flash in (False, True):
        module = tiny_module(
            resolution="dynamic", hidden_size=160, flash_attention=flash, precision="bf16"
        )
        tower = build_model(module, groups, platform)["tower"].to(platform.device)
        weights = weights or {name: one.clone() for name, one in tower.named_parameters()}
        tower.load_state_dict(weights, strict=False)
        for name, sizes in {"several": [(32, 48), (64, 32), (16, 16)], "one": SIZES}.items():
            batch = {
                name: value.to(platform.device) if isinstance(value, torch.Tensor) else value
                for name, value in random_batch(sizes, tower.options).items()
            }
            found[name].append(_run(tower, batch))
    told = {"class": _attention(tower).__name__, "rows": 0.0, "gradients": 0.0}
    for runs in found.values():
        rows, gradients = zip(*runs, strict=True)
        told["rows"] = max(told["rows"], _share(*rows))
        for name in gradients[0]:
            told["gradients"] = max(
                told["gradients"], _share(gradients[0][name], gradients[1][name])
            )
    return told


def _run(tower: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    tower.zero_grad()
    rows = tower(**batch)
    rows.float().square().mean().backward()
    return rows.detach(), {name: one.grad.clone() for name, one in tower.named_parameters()}


def _share(first: torch.Tensor, second: torch.Tensor) -> float:
    """Size of the difference, as a share of the first's size."""
    return float((first.float() - second.float()).norm() / first.float().norm())


def _attention(tower: Any) -> type:
    return type(tower.vit.decoder.layers[0].self_attention.core_attention)
