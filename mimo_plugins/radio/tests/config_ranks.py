"""Files that differ in one key, judged here and read by transformers; only ranks import this."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from mimo_plugin_radio.config_json import KEYS
from mimo_plugin_radio.plugin import param_mappings
from radio_tiny import tiny_module
from ranks_common import build_model, make_groups, random_batch
from transformers import RadioConfig, RadioModel

from mimo_core import Grid
from mimo_core.testing.config_cases import cases, fill, other_defaults, outcomes, unknown_fields
from mimo_core.testing.weights import read_parts

VALUES: dict[str, list[Any]] = {
    "num_attention_heads": [1, 4],
    "hidden_act": ["gelu_new", "relu"],
    "norm_mean": [[0.5, 0.5, 0.5]],
    "norm_std": [[0.5, 0.5, 0.5]],
    "mlp_ratio": [2.0],
    "summary_idxs": [[1]],
    "video_temporal_patch_size": [2],
}
OTHERS: dict[str, dict[str, Any]] = {
    "model_type=other": {"model_type": "siglip_vision_model"},
    "num_registers=same sum": {"num_cls_tokens": 2, "num_registers": 6},
}


def one_rank(platform: Any) -> dict[str, Any]:
    """What became of each file, and what the table lacks."""
    groups = make_groups({"vision": Grid()}, platform)["vision"]
    module = tiny_module(pixel_shuffle=False)
    options = module.options
    weights, model = param_mappings(module), build_model(module, groups, platform).eval()
    side = options.image_side
    batch = random_batch([(side, side)], options)

    def reference(config: dict[str, Any]) -> Any:
        radio = RadioModel(RadioConfig.from_dict(dict(config))).eval()
        radio.make_preprocessor_external()
        kept = {n: p.detach().clone() for n, p in radio.named_parameters() if "lambda1" in n}
        fill(radio, small="position")
        with torch.no_grad():
            for name, value in kept.items():
                radio.get_parameter(name).copy_(value)
        return radio

    def theirs(config: dict[str, Any]) -> Any:
        with torch.no_grad():
            found = reference(config)(pixel_values=batch["images"], return_dict=True)
            return found.features.flatten(0, -2)

    base = json.loads(
        RadioConfig(
            hidden_size=options.tower_width,
            num_hidden_layers=options.tower_layers,
            num_attention_heads=options.tower_heads,
            mlp_ratio=options.tower_ffn_width / options.tower_width,
            patch_size=options.patch_size,
            max_img_size=options.max_image_size,
            num_cls_tokens=1,
            num_registers=options.class_tokens - 1,
            summary_idxs=[0],
            layer_norm_eps=options.norm_epsilon,
            norm_mean=list(options.mean),
            norm_std=list(options.std),
        ).to_json_string(False)
    )
    with tempfile.TemporaryDirectory() as folder:
        reference(base).save_pretrained(folder)
        (Path(folder) / "config.json").write_text(json.dumps(base))
        tower: Any = {"encoder": model["tower"]}
        read_parts(module, weights, tower, groups, Path(folder))
    with torch.no_grad():
        ours = model["tower"](**batch)
    assert weights.config_mistakes is not None
    exported = dict(weights.exported_config)
    files = [("nothing", "", base), ("exported", "", exported), *cases(base, VALUES, OTHERS)]
    return {
        "cases": outcomes(files, weights.config_mistakes, theirs, ours),
        "unknown": unknown_fields(base, KEYS),
        "defaults": other_defaults(RadioConfig, KEYS),
    }
