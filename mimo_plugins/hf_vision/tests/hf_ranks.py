"""What the tests run on a rank of its own; results go back as JSON values."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import config_ranks
import torch
from hf_processors import processor_faults
from hf_tiny import SQUARE, tiny_module
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.spec_utils import build_module
from mimo_plugin_hf_vision.plugin import (
    build_submodule,
    describe_module,
    estimate_flops,
    param_mappings,
)
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CONFIG_MAPPING, AutoModel

from mimo_core import Grid, MediaItem, Sample
from mimo_core.distributed.process_groups import build_topology
from mimo_core.distributed.seeding import seed_module
from mimo_core.testing.weights import gradients_as_in_files, put_gradients, read_parts, unnamed

CASES: dict[str, dict[str, Any]] = {
    "clip": {},
    "siglip": {"tokens": "all", "projector": "mlp"},
    "dinov2": {},
    "dinov2-giant": {"recompute": True, "tokens": "all"},
    "clip-vision": {"select_layer": -2, "image_size": 24},
    "vit": {},
}
"""Options by the directory that they are tried on."""


def one_rank(platform: Any, folder: str) -> dict[str, Any]:
    """Every check that needs torch. Leaves whole models' safetensors in the directories."""
    groups = build_topology({"vision": Grid()}, {"vision": 0}, platform.backend).groups["vision"]
    seed_module(7, "vision.", groups)
    models = {name: Path(folder) / name for name in CASES}
    for path in models.values():
        _save_perturbed(path)
    return {
        "cases": {
            name: _case(models[name], options, groups, platform) for name, options in CASES.items()
        },
        "seeds": _seeds(models["siglip"], groups, platform),
        "bf16": _bf16(models["dinov2"], groups, platform),
        "outside": _outside(models["clip"], platform),
        "unknown_fields": _unknown_fields(models["clip"]),
        "attention": _attention(models["clip-vision"], Path(folder) / "kernels", groups, platform),
        "changed": config_ranks.quick(Path(folder) / "changed", groups, platform),
        "tables": config_ranks.tables(),
        "processors": processor_faults(models["clip"]),
    }


def _save_perturbed(path: Path) -> None:
    """What ``save_pretrained`` writes of the model, no weight at a value that hides its use."""
    said = json.loads((path / "config.json").read_text())
    model = AutoModel.from_config(CONFIG_MAPPING[said["model_type"]].from_dict(said))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(path)


def _flops(tower: Any, pixels: Any) -> float:
    """Of a forward, those left out that no row depends on: of modules of which nothing learns."""
    idle = [
        name
        for name, child in tower.named_modules()
        if any(True for _ in child.parameters())
        and not any(p.requires_grad for p in child.parameters())
    ]
    outermost = [name for name in idle if name.rpartition(".")[0] not in idle]
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        tower(pixels)
    counts = counter.get_flop_counts()
    left = sum(sum(counts.get(f"{type(tower).__name__}.{name}", {}).values()) for name in outermost)
    return counter.get_total_flops() - left


def _built(module: Any, groups: Any, platform: Any) -> dict[Any, torch.nn.Module]:
    """Tower and projector by the words of ``freeze``, as the core builds them."""
    parts = build_submodule(module, groups, platform)
    return {"encoder": build_module(parts.tower), "projector": build_module(parts.projector)}


def _case(path: Path, options: dict[str, Any], groups: Any, platform: Any) -> dict[str, Any]:
    """The tower and transformers' own, begun from one directory."""
    module = tiny_module(path, **options)
    description, weights = describe_module(module), param_mappings(module)
    parts = _built(module, groups, platform)
    tower = parts["encoder"]
    side = options.get("image_size", 16)
    pixels = torch.randn(2, 3, side, side)
    media = MediaItem(modality="image", shape=(9, 9), load=lambda _: None)  # type: ignore[arg-type, return-value]
    found: dict[str, Any] = {
        "unnamed": unnamed(module, weights, parts, groups),
        "parameters": sum(p.numel() for part in parts.values() for p in part.parameters()),
        "described": description.num_parameters,
        "described_still": sum(w.num_parameters for w in description.parameters if w.frozen),
        "still_parameters": sum(p.numel() for p in tower.parameters() if not p.requires_grad),
        "flops": _flops(tower, pixels),
        "told_flops": [
            piece.weight_matmul + piece.activation_matmul
            for piece in estimate_flops(module, [Sample(key="two", content=(media, media))])
        ],
        "still": sorted(name for name, p in tower.named_parameters() if not p.requires_grad),
    }
    read_parts(module, weights, {"encoder": tower}, groups, path)
    rows = tower(pixel_values=pixels)
    found["rows"] = list(rows.shape)
    found["expected_rows"] = [
        2 * sum(description.count_positions([media])),
        description.hidden_size,
    ]  # type: ignore[misc]
    found["projected"] = list(parts["projector"](rows).shape)

    whole = AutoModel.from_pretrained(path)
    theirs = getattr(whole, "vision_model", whole).train()
    expected = _features(theirs, pixels, options)
    exported = dict(weights.exported_config)
    again = AutoModel.from_config(CONFIG_MAPPING[exported["model_type"]].from_dict(exported))
    again.load_state_dict(theirs.state_dict())
    found["exported_gap"] = _gap(_features(again, pixels, options), expected)
    factors = torch.randn_like(expected)
    for output in (expected, rows):
        (output * factors).sum().backward()
    found["gap"] = _gap(rows, expected)
    found["size"] = float(expected.abs().max())
    put_gradients([whole])
    whole.save_pretrained(path / "gradients")
    due = load_file(path / "gradients" / "model.safetensors")
    gradients = gradients_as_in_files(module, weights, {"encoder": tower}, groups)
    prefix = "vision_model." if theirs is not whole else ""
    found["gradients"] = {
        name: _gap(gradient, due[prefix + name]) for name, gradient in gradients.items()
    }
    found["zero"] = sorted(name for name, grad in gradients.items() if not grad.count_nonzero())
    found["largest"] = max(float(gradient.abs().max()) for gradient in gradients.values())
    return found


def _features(model: Any, pixels: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
    """What a user of transformers would take of the model, ``[N, width]``."""
    given = {"interpolate_pos_encoding": True} if "image_size" in options else {}
    output = model(pixel_values=pixels, output_hidden_states=True, **given)
    features = output.last_hidden_state
    if "select_layer" in options:
        features = output.hidden_states[options["select_layer"]]
    has_class = "siglip" not in model.config.model_type
    if options.get("tokens", "patches") == "patches" and has_class:
        features = features[:, 1:]
    return features.flatten(0, 1)


def _gap(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).abs().max())


def _seeds(path: Path, groups: Any, platform: Any) -> list[bool]:
    """Whether weights are those of the first build: with its seed, with another."""
    states = []
    for seed in (1, 1, 2):
        seed_module(seed, "vision.", groups)
        parts = _built(tiny_module(path), groups, platform)
        states.append(
            torch.cat([p.flatten() for part in parts.values() for p in part.parameters()])
        )
    return [torch.equal(states[0], other) for other in states[1:]]


def _bf16(path: Path, groups: Any, platform: Any) -> list[str]:
    """Precision of rows and of what the projector makes of them."""
    parts = _built(tiny_module(path, precision="bf16"), groups, platform)
    rows = parts["encoder"](pixel_values=torch.randn(1, 3, 16, 16))
    return [str(rows.dtype), str(parts["projector"](rows).dtype)]


def _attention(path: Path, folder: Path, groups: Any, platform: Any) -> list[str]:
    """The attention of towers whose files name kernels of the Hub, and of one whose file does not;
    the plugin's option names another in the last."""
    config = json.loads((path / "config.json").read_text())
    kernels = "kernels-community/flash-attn2"
    chosen = []
    for number, (said, options) in enumerate(
        [
            ({}, {}),
            *(
                ({key: kernels}, {})
                for name in ("attn_implementation", "experts_implementation")
                for key in (name, f"_{name}")
            ),
            ({"attn_implementation": kernels}, {"attention": "eager"}),
        ]
    ):
        made = folder / str(number)
        made.mkdir(parents=True)
        (made / "config.json").write_text(json.dumps({**config, **said}))
        (made / "preprocessor_config.json").write_text(json.dumps(SQUARE))
        tower = _built(tiny_module(made, **options), groups, platform)["encoder"]
        chosen.append(str(tower.model.config._attn_implementation))
    return chosen


def _outside(path: Path, platform: Any) -> int:
    """What a rank outside the module's grid reads: the width."""
    return int(build_submodule(tiny_module(path), None, platform).config.hidden_size)


def _unknown_fields(path: Path) -> list[str]:
    """What the description owns though megatron's config has no such field."""
    fields = {field.name for field in dataclasses.fields(TransformerConfig)}
    return sorted(describe_module(tiny_module(path)).owned_config_fields - fields)
