"""Tiny modules with adapters, for the test process and for its ranks; no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import mimo_plugin_gpt.plugin
import mimo_plugin_hf_vision.plugin
import mimo_plugin_lora.plugin
import mimo_plugin_nemotron.plugin
import mimo_plugin_radio.plugin
from mimo_plugin_gpt.options import Options as GptOptions
from mimo_plugin_hf_vision.options import Options as HfVisionOptions
from mimo_plugin_lora.options import Options
from mimo_plugin_nemotron.options import Options as NemotronOptions
from mimo_plugin_radio.options import Options as RadioOptions

from mimo_core import Grid, ModuleConfig, TrainingConfig
from mimo_core.plugins import Host

TRAIN = TrainingConfig(
    iterations=1, micro_batch_size=2, global_batch_size=2, sequence_length=12, learning_rate=1e-3
)
VISION = ModuleConfig(
    name="vision",
    plugin="radio",
    grid=Grid(),
    train=TRAIN,
    options=RadioOptions(
        hidden_size=16, layers=2, heads=2, image_size=16, max_image_size=32, patch_size=4
    ),
    language_width=24,
)
LANGUAGE = ModuleConfig(
    name="language",
    plugin="nemotron",
    grid=Grid(),
    train=TRAIN,
    options=NemotronOptions(
        pattern="M*-E",
        hidden_size=32,
        attention_heads=4,
        mamba_heads=4,
        mamba_head_dim=16,
        mamba_state=8,
        mamba_groups=2,
        experts=4,
        expert_ffn_hidden_size=32,
        shared_expert_ffn_hidden_size=16,
    ),
    vocabulary_size=200,
)
GATED = ModuleConfig(
    name="language",
    plugin="gpt",
    grid=Grid(),
    train=TRAIN,
    options=GptOptions(
        hidden_size=32,
        layers=2,
        attention_heads=4,
        kv_heads=2,
        experts=4,
        experts_per_token=2,
        expert_ffn_hidden_size=24,
        vocabulary_size=256,
    ),
    vocabulary_size=200,
)
TARGETS = {
    "radio": ("vit.embedder", "*.layers.0.*.linear_*", "*.layers.1.mlp.linear_fc2"),
    "nemotron": ("*_proj", "*.linear_*", "output_layer"),
    "gpt": ("*.layers.1.*.linear_*",),
    "hf-vision": ("*.self_attn.*_proj", "*.layers.1.mlp.fc*"),
}
"""Of some only a few of the layers, which Megatron stacks under one key; of nemotron all."""
HOST = Host.from_plugins(
    {
        "radio": mimo_plugin_radio.plugin,
        "nemotron": mimo_plugin_nemotron.plugin,
        "gpt": mimo_plugin_gpt.plugin,
        "hf-vision": mimo_plugin_hf_vision.plugin,
        "lora": mimo_plugin_lora.plugin,
    }
)


def transformers_module(folder: Path) -> ModuleConfig:
    """A tower of transformers; its directory is made."""
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 4,
    }
    pictures = {
        "image_processor_type": "SiglipImageProcessor",
        "size": {"height": 16, "width": 16},
        "resample": 3,
    }
    colours = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (folder / "config.json").write_text(json.dumps(vision))
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures | colours))
    return attrs.evolve(VISION, plugin="hf-vision", options=HfVisionOptions(model=str(folder)))


def lora(*targets: str, **options: Any) -> dict[str, Options]:
    """``Module.wrappers``."""
    return {"lora": Options(targets=targets, **options)}
