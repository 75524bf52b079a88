"""Tiny LLaVA directories, read here and by transformers; only ranks import this."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import torch
from hf_tiny import CONFIGS, LANGUAGE_WIDTH, SQUARE, tiny_module
from megatron.core.transformer.spec_utils import build_module
from mimo_plugin_gpt import options as gpt_options
from mimo_plugin_gpt import plugin as gpt
from mimo_plugin_hf_vision import whole
from mimo_plugin_hf_vision.plugin import build_submodule, param_mappings
from transformers import CONFIG_MAPPING, LlavaConfig, LlavaForConditionalGeneration

from mimo_core import Grid
from mimo_core.distributed.process_groups import build_topology
from mimo_core.distributed.seeding import seed_module
from mimo_core.errors import MimoError
from mimo_core.testing.config_cases import ABSENT, cases, fill
from mimo_core.testing.weights import read_parts

BASE: dict[str, Any] = {
    "model_type": "llava",
    "vision_config": {"model_type": "clip_vision_model", **CONFIGS["clip"]["vision_config"]},
    "text_config": {
        "model_type": "llama",
        "hidden_size": LANGUAGE_WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "vocab_size": 20,
    },
    "image_token_index": 19,
    "image_seq_length": 16,
    "projector_hidden_act": "gelu",
    "vision_feature_select_strategy": "default",
    "vision_feature_layer": -2,
    "multimodal_projector_bias": True,
    "tie_word_embeddings": False,
}
_VISION = BASE["vision_config"]
VALUES: dict[str, list[Any]] = {
    "vision_feature_layer": [-1, 1, 0, -3, [-1, -2], 7],
    "vision_feature_select_strategy": ["full", "other"],
    "projector_hidden_act": ["relu", "gelu_new"],
    "vision_config": [
        {key: value for key, value in _VISION.items() if key != "model_type"},
        _VISION | {"hidden_act": "gelu"},
        _VISION | {"layer_norm_eps": 1e-2},
        _VISION | {"num_attention_heads": 4},
    ],
    "text_config": [],
}


_TEXT = BASE["text_config"]
WHOLES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "other rows": {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"},
    "no type of text_config": {
        "text_config": {key: value for key, value in _TEXT.items() if key != "model_type"}
    },
    "sparse text_config": {"text_config": _TEXT | {"head_dim": 8, "rms_norm_eps": 1e-2}},
    "mistral": {
        "text_config": _TEXT
        | {"model_type": "mistral", "sliding_window": None, "num_key_value_heads": 1}
    },
    "tied": {"tie_word_embeddings": True},
}
"""Changes to whole models of which all logits are compared."""


def one_rank(platform: Any, folder: str) -> dict[str, Any]:
    """Differences of projected rows, or what is said, of each file."""
    groups = build_topology({"vision": Grid()}, {"vision": 0}, platform.backend).groups["vision"]
    seed_module(7, "vision.", groups)
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    files = [
        ("nothing", "", BASE),
        *(case for case in cases(BASE, VALUES, {}) if case[0] not in _LARGE),
    ]
    found = {}
    for number, (name, key, config) in enumerate(files):
        path = Path(folder) / str(number)
        found[name] = {"key": key, **_case(config, path, pixels, groups, platform)}
    wholes = {
        name: _logits({**BASE, **change}, Path(folder) / f"whole-{number}", groups, platform)
        for number, (name, change) in enumerate(WHOLES.items())
    }
    return {"cases": found, "logits": wholes, "defaults": _defaults(), "towers": _towers()}


_LARGE = {f"{part}_config={how}" for part in ("vision", "text") for how in ("absent", "null")}
"""Whole models of the released sizes."""


def _case(config: dict[str, Any], path: Path, pixels: Any, groups: Any, platform: Any) -> Any:
    path.mkdir()
    due = None
    try:
        model = LlavaForConditionalGeneration(LlavaConfig.from_dict(dict(config))).eval()
        fill(model)
        model.save_pretrained(path)
        with torch.no_grad():
            rows = model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
        due = torch.cat([one.flatten(0, -2) for one in rows])
    except Exception:  # transformers makes no rows of it, as of layer 0
        LlavaForConditionalGeneration(LlavaConfig.from_dict(dict(BASE))).save_pretrained(path)
    (path / "config.json").write_text(json.dumps(config))
    (path / "preprocessor_config.json").write_text(json.dumps(SQUARE))
    module = tiny_module(path, projector="mlp")
    try:
        weights = param_mappings(module)
        built = build_submodule(module, groups, platform)
        parts: Any = {
            "encoder": build_module(built.tower).eval(),
            "projector": build_module(built.projector).eval(),
        }
        read_parts(module, weights, parts, groups, path)
    except (MimoError, ValueError) as error:
        return {"refused": str(error)}
    if due is None:
        return {"neither": True}
    with torch.no_grad():
        rows = parts["projector"](parts["encoder"](pixel_values=pixels))
    if rows.shape != due.shape:
        return {"shapes": [list(rows.shape), list(due.shape)]}
    return {"difference": float((rows - due).abs().max() / due.abs().max())}


def _logits(config: dict[str, Any], path: Path, groups: Any, platform: Any) -> dict[str, Any]:
    """Of a picture between words, through tower, projector and language model of a directory."""
    model = LlavaForConditionalGeneration(LlavaConfig.from_dict(dict(config))).eval()
    fill(model)
    model.save_pretrained(path)
    (path / "config.json").write_text(json.dumps(config))
    (path / "preprocessor_config.json").write_text(json.dumps(SQUARE))
    vision = tiny_module(path, projector="mlp")
    built = build_submodule(vision, groups, platform)
    parts: Any = {
        "encoder": build_module(built.tower).eval(),
        "projector": build_module(built.projector).eval(),
    }
    read_parts(vision, param_mappings(vision), parts, groups, path)
    text = attrs.evolve(
        vision,
        name="language",
        plugin="gpt",
        options=gpt_options.Options(like=str(path)),
        vocabulary_size=20,
        language_width=None,
    )
    language = build_module(gpt.build_submodule(text, groups, platform)).eval()
    read_parts(text, gpt.param_mappings(text), {"language": language}, groups, path)

    pixels = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        rows = parts["projector"](parts["encoder"](pixel_values=pixels))
        picture = [config["image_token_index"]] * len(rows)
        ids = torch.tensor([[3, 4, *picture, 5, 6, 7]])
        due = model(input_ids=ids, pixel_values=pixels).logits
        positions = torch.arange(ids.shape[1])[None]
        embedded = language.embedding(ids, positions)
        embedded[2 : 2 + len(rows), 0] = rows
        logits = language(ids, positions, None, decoder_input=embedded)
    found = {"difference": float((logits - due).abs().max() / due.abs().max())}
    return {**found, "spread": float(due.std(dim=1).min() / due.abs().max())}


def _defaults() -> dict[str, Any]:
    """Keys of whole models that have another default here than in transformers."""
    return {
        f"{kind}.{key}": [value, getattr(CONFIG_MAPPING[kind], key, None)]
        for kind, table in whole.DEFAULTS.items()
        for key, value in table.items()
        if getattr(CONFIG_MAPPING[kind], key, ABSENT) != value
    }


def _towers() -> dict[str, Any]:
    """Whole models whose tower is of another type here than in transformers."""
    found = {}
    for kind, tower in whole.TOWER_OF.items():
        parts = getattr(CONFIG_MAPPING[kind], "sub_configs_defaults", None) or {}
        theirs = getattr(parts.get("vision_config"), "model_type", None)
        if theirs != tower:
            found[kind] = [tower, theirs]
    return found
