"""Dynamic resolution on one rank; results go back as JSON values."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mimo_plugin_radio.batch import image_batch, packed_batch
from radio_tiny import tiny_module
from ranks_common import (
    build_model,
    compare_with_transformers,
    largest_gap,
    make_groups,
    packed,
    random_batch,
)

from mimo_core import Grid, MediaItem, Sample

SIZES = [(16, 24), (8, 8), (40, 8), (16, 24)]


def one_rank(platform: Any) -> dict[str, Any]:
    """Every check, in one process."""
    groups = make_groups({"vision": Grid()}, platform)["vision"]
    return {
        "squares": _squares(groups, platform),
        "apart": _apart(groups, platform),
        "reference": _reference(groups, platform),
        "crop": _crop(groups, platform),
        "recomputed": _recomputed(groups, platform),
    }


def _gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def _largest_share(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Largest difference of any tensor, as a share of its largest value."""
    return max(
        largest_gap(first[name], second[name]) / float(first[name].abs().max()) for name in first
    )


def _squares(groups: Any, platform: Any) -> dict[str, float]:
    """Pictures of the fixed size, from pixels to rows, in both resolutions, weights the same."""
    pictures = list(np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8))
    media = tuple(
        MediaItem(modality="image", shape=(16, 16), load=lambda _: None) for _ in pictures
    )
    sample = Sample(key="test/0", content=media)
    fixed = build_model(tiny_module(), groups, platform)["tower"]
    dynamic = build_model(tiny_module(resolution="dynamic"), groups, platform)["tower"]
    dynamic.load_state_dict(fixed.state_dict())
    outputs = [
        fixed(**image_batch(pictures, fixed.options)),
        dynamic(**packed_batch([sample], pictures, dynamic.options)),
    ]
    for output in outputs:
        output.square().sum().backward()
    return {
        "rows": largest_gap(*outputs),
        "gradients": _largest_share(_gradients(fixed), _gradients(dynamic)),
        "size": float(outputs[0].abs().max()),
    }


def _apart(groups: Any, platform: Any) -> dict[str, Any]:
    """Pictures of several sizes packed, against each alone."""
    tower = build_model(tiny_module(resolution="dynamic"), groups, platform)["tower"]
    pictures = [torch.randn(1, 3, *size) for size in SIZES]
    together = tower(**packed(pictures, tower.options))
    together.square().sum().backward()
    gradients = {name: gradient.clone() for name, gradient in _gradients(tower).items()}
    tower.zero_grad()
    alone = torch.cat([tower(**packed([picture], tower.options)) for picture in pictures])
    alone.square().sum().backward()
    return {
        "rows": largest_gap(together, alone),
        "count": len(together),
        "gradients": _largest_share(gradients, _gradients(tower)),
    }


def _reference(groups: Any, platform: Any) -> dict[str, Any]:
    """Rectangles packed against transformers' RadioModel of the same weights, which packs them too.

    The position grid has 8x8 patches; two pictures are larger than it.
    """
    sizes = [(32, 32), (16, 28), (24, 8), (48, 20), (12, 60)]
    module = tiny_module(
        resolution="dynamic", pixel_shuffle=False, max_positions=256, min_positions=1
    )
    model = build_model(module, groups, platform)
    batch = random_batch(sizes, module.options)
    grids = torch.tensor(sizes) // module.options.patch_size
    theirs = {"pixel_values": batch["patches"], "image_grid_hw": grids}
    lengths = grids.prod(-1).tolist()
    return compare_with_transformers(module, model, groups, batch, theirs, lengths)


def _crop(groups: Any, platform: Any) -> dict[str, float]:
    """The same picture twice in one batch: how far its rows differ, in training and evaluation."""
    module = tiny_module(resolution="dynamic", position_crop=True)
    tower = build_model(module, groups, platform)["tower"]
    picture = torch.randn(1, 3, 16, 24)

    def apart() -> float:
        return largest_gap(*tower(**packed([picture] * 2, tower.options)).chunk(2))

    return {"training": apart(), "evaluation": (tower.eval(), apart())[1]}


def _recomputed(groups: Any, platform: Any) -> float:
    """Gradients with activations recomputed, as a recipe's `megatron` section asks, against those
    without."""
    recompute = {"recompute_method": "uniform", "recompute_num_layers": 1}
    modules = [
        tiny_module(resolution="dynamic", megatron=megatron)
        for megatron in ({}, recompute | {"recompute_granularity": "full"})
    ]
    models = [build_model(module, groups, platform) for module in modules]
    models[1].load_state_dict(models[0].state_dict())
    for module, model in zip(modules, models, strict=True):
        rows = model["tower"](**random_batch(SIZES, module.options))
        model["projector"](rows).square().sum().backward()
    return _largest_share(*map(_gradients, models))
