"""Tiny towers: their directories as ``save_pretrained`` lays them out, and modules; no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from mimo_plugin_hf_vision.architecture import architecture
from mimo_plugin_hf_vision.names import tensor_shapes
from mimo_plugin_hf_vision.options import Options
from safetensors.numpy import save_file

from mimo_core import Grid, ModuleConfig, TrainingConfig

LANGUAGE_WIDTH = 24
TOWER: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
_TEXT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "vocab_size": 20,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
_VISION = {**TOWER, "intermediate_size": 32}
CONFIGS: dict[str, dict[str, Any]] = {
    "clip": {
        "model_type": "clip",
        "vision_config": {**_VISION, "model_type": "clip_vision_model"},
        "text_config": _TEXT,
        "projection_dim": 8,
    },
    "siglip": {
        "model_type": "siglip",
        "vision_config": {**_VISION, "model_type": "siglip_vision_model"},
        "text_config": _TEXT,
    },
    "dinov2": {"model_type": "dinov2", **TOWER, "image_size": 24},
    "dinov2-giant": {"model_type": "dinov2", **TOWER, "use_swiglu_ffn": True, "qkv_bias": False},
    "clip-vision": {"model_type": "clip_vision_model", **_VISION},
    "vit": {"model_type": "vit", **_VISION},
}
"""Whole models, towers alone, and one of which the plugin has no table."""

_COLOURS = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
SQUARE: dict[str, Any] = {
    "image_processor_type": "SiglipImageProcessor",
    "size": {"height": 16, "width": 16},
    "resample": 3,
    **_COLOURS,
}
CROPPED: dict[str, Any] = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 18},
    "resample": 2,
    "do_center_crop": True,
    "crop_size": {"height": 16, "width": 16},
    **_COLOURS,
}


def write_model(folder: Path, name: str, processor: dict[str, Any] = SQUARE) -> Path:
    """A directory with the JSON files of a tiny model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIGS[name]))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def write_weights(folder: Path) -> Path:
    """Random weights beside the files of a whole model, some of them none of the tower's."""
    shapes = tensor_shapes(architecture(tiny_module(folder).options))
    assert shapes is not None
    generator = np.random.default_rng(1)
    tensors = {
        f"vision_model.{name}": generator.normal(0, 0.1, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    tensors["text_model.embeddings.position_embedding.weight"] = np.ones((77, 16), np.float32)
    tensors["logit_scale"] = np.float32([2.5])
    save_file(tensors, folder / "model.safetensors")
    return folder


def tiny_module(model: Path | str, *, precision: Any = "fp32", **options: Any) -> ModuleConfig:
    """A module as hooks see it."""
    return ModuleConfig(
        name="vision",
        plugin="hf-vision",
        grid=Grid(),
        train=TrainingConfig(
            iterations=1,
            micro_batch_size=2,
            global_batch_size=2,
            sequence_length=64,
            learning_rate=1e-3,
        ),
        options=Options(model=str(model), **options),
        precision=precision,
        language_width=LANGUAGE_WIDTH,
    )
