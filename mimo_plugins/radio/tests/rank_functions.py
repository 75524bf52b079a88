"""What the tests run on ranks of their own; results go back as JSON values."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from megatron.core.transformer import TransformerConfig
from mimo_plugin_radio.plugin import build_submodule, describe_module, param_mappings
from mimo_plugin_radio.sizes import picture_sizes
from mimo_plugin_radio.tower import pixel_shuffle
from radio_tiny import tiny_module
from ranks_common import (
    build_model,
    compare_with_transformers,
    largest_gap,
    make_groups,
    parts_of,
    random_batch,
    sharded_state,
)

from mimo_core import Grid, MediaItem
from mimo_core.testing.weights import unnamed


def one_rank(platform: Any) -> dict[str, Any]:
    """Every check that needs no second rank, in one process."""
    groups = make_groups({"vision": Grid()}, platform)["vision"]
    return {
        "variants": [_variant(options, groups, platform) for options in VARIANTS],
        "bf16": _bf16(groups, platform),
        "outside": _outside(platform),
        "unknown_fields": _unknown_fields(),
        "embedding": _embedding(groups, platform),
        "rows": _rows(groups, platform),
        "class_tokens": _class_tokens(groups, platform),
        "shuffle": _shuffle(),
        "noise": {
            resolution: {
                "crop": _noise(groups, platform, resolution=resolution, position_crop=True),
                "dropout": _noise(groups, platform, resolution=resolution, dropout=0.5),
                "still": _noise(groups, platform, resolution=resolution),
            }
            for resolution in ("fixed", "dynamic")
        },
        "reference": [_reference(side, groups, platform) for side in (16, 32, 48)],
    }


VARIANTS: list[dict[str, Any]] = [
    {},
    {"projector": "mlp", "projector_hidden_size": 40, "ffn_hidden_size": 24},
    {"pixel_shuffle": False, "keep_class_tokens": True},
    {"pixel_shuffle": False, "class_tokens": 0},
    {"projector_norm": "rms"},
    {"projector": "mlp", "projector_norm": "rms", "projector_bias": False},
    {"resolution": "dynamic"},
    {"resolution": "dynamic", "pixel_shuffle": False, "keep_class_tokens": True},
    {"resolution": "dynamic", "pixel_shuffle": False, "class_tokens": 0},
]


def _images(count: int, side: int = 16) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(3))


def _variant(options: dict[str, Any], groups: Any, platform: Any) -> dict[str, Any]:
    module = tiny_module(**options)
    model = build_model(module, groups, platform)
    shapes = [(30, 20), (16, 50)]
    batch = random_batch(picture_sizes(shapes, module.options), module.options)
    rows = model["tower"](**batch)
    projected = model["projector"](rows)
    projected.square().sum().backward()
    parameters = dict(model.named_parameters())
    description = describe_module(module)
    media = [MediaItem(modality="image", shape=shape, load=lambda _: None) for shape in shapes]
    return {
        "rows": list(rows.shape),
        "expected_rows": [sum(description.count_positions(media)), description.hidden_size],
        "projected": list(projected.shape),
        "without_gradient": [
            name
            for name, parameter in parameters.items()
            if parameter.grad is None or not parameter.grad.isfinite().all()
        ],
        "zero_gradient": [
            name for name, parameter in parameters.items() if not parameter.grad.count_nonzero()
        ],
        "unnamed": unnamed(module, param_mappings(module), parts_of(model), groups),
        "unsaved": sorted(parameters.keys() - sharded_state(model, groups).keys()),
        "parameters": sum(parameter.numel() for parameter in parameters.values()),
        "described": description.num_parameters,
    }


def _bf16(groups: Any, platform: Any) -> list[str]:
    """Precision of the projected rows, in both resolutions."""
    found = []
    for resolution in ("fixed", "dynamic"):
        module = tiny_module(precision="bf16", resolution=resolution)
        model = build_model(module, groups, platform)
        rows = model["tower"](**random_batch([(16, 16)], module.options))
        found.append(str(model["projector"](rows).dtype))
    return found


def _unknown_fields() -> list[str]:
    """What the description owns though megatron's config has no such field."""
    fields = {field.name for field in dataclasses.fields(TransformerConfig)}
    return sorted(describe_module(tiny_module()).owned_config_fields - fields)


def _outside(platform: Any) -> int:
    """What a rank outside the module's grid reads: the width, from a module of another grid."""
    parts = build_submodule(tiny_module(tp=2), None, platform)
    return int(parts.config.hidden_size)


def _embedding(groups: Any, platform: Any) -> float:
    """Spread of embedded patches, for pixels of unit variance."""
    model = build_model(tiny_module(hidden_size=64), groups, platform)
    patches = torch.randn(64, 48)
    return float(model["tower"].vit.embedder(patches)[0].std())


def _rows(groups: Any, platform: Any) -> float:
    """Two pictures at once, against one after the other."""
    model = build_model(tiny_module(), groups, platform)
    images = _images(2)
    apart = torch.cat([model["tower"](images[:1]), model["tower"](images[1:])])
    return largest_gap(model["tower"](images), apart)


def _class_tokens(groups: Any, platform: Any) -> dict[str, Any]:
    """The same weights with class tokens kept and dropped: rows ``[B, positions, H]``."""
    kept = build_model(tiny_module(pixel_shuffle=False, keep_class_tokens=True), groups, platform)
    dropped = build_model(tiny_module(pixel_shuffle=False), groups, platform)
    dropped.load_state_dict(kept.state_dict())
    with_them = kept["tower"](_images(2)).view(2, 19, 16)
    without = dropped["tower"](_images(2)).view(2, 16, 16)
    return {"patches": largest_gap(with_them[:, 3:], without)}


def _shuffle() -> dict[str, Any]:
    """Ours against that of transformers, on a picture of 4 rows and 6 columns."""
    from transformers.models.nemotron_h_omni import modeling_nemotron_h_omni as omni

    features = torch.arange(2 * 4 * 6 * 5.0).view(2, 4, 6, 5)
    ours = pixel_shuffle(features.flatten(1, 2), columns=6)
    shuffle = omni.NemotronH_Omni_Reasoning_V3.pixel_shuffle
    return {
        "shape": list(ours.shape),
        "gap": largest_gap(ours, shuffle(None, features).flatten(1, 2)),
        "first": ours[0, 0].tolist(),
    }


def _noise(groups: Any, platform: Any, **options: Any) -> dict[str, bool]:
    """Whether the rows change with the seed, in training and in evaluation."""
    tower = build_model(tiny_module(**options), groups, platform)["tower"]
    batch = random_batch([(16, 16)] * 2, tower.options)

    def changes() -> bool:
        outputs = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            outputs.append(tower(**batch))
        return not torch.equal(*outputs)

    return {"training": changes(), "evaluation": (tower.eval(), changes())[1]}


def _reference(side: int, groups: Any, platform: Any) -> dict[str, Any]:
    """The tower against transformers' RadioModel of the same weights, on pictures of one size."""
    module = tiny_module(image_size=side, pixel_shuffle=False)
    model = build_model(module, groups, platform)
    images = _images(2, side)
    return compare_with_transformers(
        module, model, groups, {"images": images}, {"pixel_values": images}
    )
