"""Files that differ in one key, read here and by transformers; only ranks import this."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from gpt_modules import FAMILIES, ROWS, SEQUENCE, language_module
from gpt_ranks import Built, difference
from mimo_plugin_gpt import config_json, plugin
from mimo_plugin_gpt.config_tables import CLASSES, KEYS, TEXT_OF
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from mimo_core.contract import Grid
from mimo_core.testing.config_cases import ABSENT, cases, fill, unknown_fields
from mimo_core.weights.compare import match

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_theta": 1e8,
}
_LARGEST = 3_000_000
"""Parameters of a model that is built; of a larger one the sizes are compared."""
VALUES: dict[str, list[Any]] = {
    "hidden_act": ["gelu", "swish", "relu"],
    "num_attention_heads": [2, 8, 3],
    "num_key_value_heads": [1, 4, 3],
    "head_dim": [8, 16],
    "sliding_window": [4, 4096],
    "layer_types": [["sliding_attention"] * 2, ["full_attention"] * 2],
    "mlp_only_layers": [[0]],
    "decoder_sparse_step": [2],
    "num_experts_per_tok": [1, 4],
    "rope_parameters": [
        {"rope_type": "default", "rope_theta": 500.0},
        {"rope_type": "default", "factor": 8.0, "rope_theta": 500.0},
        {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0},
        {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 500.0},
        {"rope_type": "yarn", "factor": 4.0, "rope_theta": 500.0},
        {"rope_theta": 500.0},
        {"rope_type": "llama3", "factor": 8.0},
        LLAMA3,
        LLAMA3 | {"factor": 4.0},
        LLAMA3 | {"low_freq_factor": 2.0},
        LLAMA3 | {"high_freq_factor": 8.0},
        LLAMA3 | {"original_max_position_embeddings": 64},
    ],
}
"""What keys are changed to, where another value of the same type does not do."""
ALIASES = {"num_local_experts": "num_experts"}
"""Other names that transformers has for a key."""
_LENGTHLESS = {k: v for k, v in LLAMA3.items() if k != "original_max_position_embeddings"}
OTHERS: dict[str, dict[str, Any]] = {
    "rope_theta=earlier": {"rope_parameters": ABSENT, "rope_theta": 777.0},
    "rope_theta=beside": {"rope_theta": 777.0},
    "rope_scaling=earlier": {
        "rope_parameters": ABSENT,
        "rope_scaling": {k: v for k, v in LLAMA3.items() if k != "rope_theta"},
        "rope_theta": 1e8,
    },
    "rope_scaling=both": {"rope_scaling": LLAMA3},
    "rope_scaling=none": {"rope_parameters": ABSENT, "rope_scaling": None},
    "rope_scaling=linear": {"rope_scaling": {"type": "linear", "factor": 2.0}},
    "rope_scaling=untyped": {"rope_scaling": {"factor": 2.0}},
    "partial_rotary_factor=inner": {
        "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5},
    },
    "partial_rotary_factor=outer": {"partial_rotary_factor": 0.5},
    "original_max_position_embeddings=lacking": {
        "rope_parameters": _LENGTHLESS,
        "max_position_embeddings": 64,
    },
    "original_max_position_embeddings=followed": {
        "rope_parameters": _LENGTHLESS,
        "max_position_embeddings": 8192,
    },
    "original_max_position_embeddings=outer": {
        "rope_parameters": LLAMA3,
        "original_max_position_embeddings": 64,
    },
    "original_max_position_embeddings=class": {
        "rope_parameters": _LENGTHLESS,
        "max_position_embeddings": ABSENT,
    },
    "rope_parameters=nested": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 500.0}},
    },
    "sliding_window=used": {
        "use_sliding_window": True,
        "sliding_window": 4,
        "max_window_layers": 0,
    },
    "sliding_window=used_absent": {"use_sliding_window": True, "sliding_window": ABSENT},
    "sliding_window=unused": {"use_sliding_window": False, "sliding_window": 4},
    "num_experts=other_name": {"num_local_experts": ABSENT, "num_experts": 4},
    "num_local_experts=other_name": {"num_local_experts": 4, "num_experts": ABSENT},
    "head_dim=derived": {"head_dim": ABSENT, "num_attention_heads": 8, "num_key_value_heads": 8},
}

ROPE = {"rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor"}
ROPE_TRIED_ON = ("llama", "mixtral")
"""Rotary positions are read alike for all types but for the base that a type takes."""


def one_rank(platform: Any, kinds: list[str]) -> dict[str, Any]:
    """What became of each case of each type, and what the tables lack."""
    with tempfile.TemporaryDirectory() as folder:
        found = {kind: _kind(platform, kind, Path(folder)) for kind in kinds}
    return {**found, "text types": _text_types()}


def _kind(platform: Any, kind: str, folder: Path) -> dict[str, Any]:
    base = _whole_file(kind)
    models: dict[Any, Tensor] = {}
    result: dict[str, Any] = {
        "unknown": [key for key in unknown_fields(base, KEYS[kind]) if key not in ALIASES],
        "defaults": _other_defaults(kind),
        "cases": {},
    }
    values, others = VALUES, OTHERS
    if kind not in ROPE_TRIED_ON:
        values = VALUES | {"rope_parameters": [{"rope_theta": 500.0}]}
        others = {name: to for name, to in OTHERS.items() if not set(to) & ROPE}
    for name, key, config in [("nothing", "", base), *cases(base, values, others)]:
        result["cases"][name] = {
            # Without a value a file's own name of the key is the one to name.
            "key": key if name.endswith("=null") else ALIASES.get(key, key),
            **_case(platform, config, folder, models),
        }
    result["models"] = len(models)
    return result


def _whole_file(kind: str) -> dict[str, Any]:
    """All keys of the class, of a tiny model without one of its defaults."""
    family = kind if kind in FAMILIES else "llama"
    shape = language_module(**FAMILIES[family]).options.shape
    config = config_json.config_of(shape, ROWS, SEQUENCE) | {"rms_norm_eps": 1e-4}
    if kind == "mistral":
        config |= {"sliding_window": None}
    del config["model_type"]
    whole: dict[str, Any] = json.loads(CONFIG_MAPPING[kind](**config).to_json_string(False))
    return whole | {"model_type": kind}


def _other_defaults(kind: str) -> dict[str, Any]:
    """Where a table has another value than the class, before it derives any from others."""
    held = CONFIG_MAPPING[kind]()
    theirs = {name: getattr(type(held), name, ABSENT) for name in KEYS[kind].defaults}
    theirs["rope_scaling"] = None  # another name of rope_parameters
    theirs["rope_theta"] = held.default_theta
    return {
        name: [value, repr(theirs[name])]
        for name, value in KEYS[kind].defaults.items()
        if theirs[name] is not ABSENT and theirs[name] != value
    }


def _case(
    platform: Any, config: Mapping[str, Any], folder: Path, models: dict[Any, Tensor]
) -> dict[str, Any]:
    """``refused`` with what is said, ``difference`` of logits, or ``neither`` can read it."""
    file = folder / "config.json"
    file.write_text(json.dumps(config))
    ids = torch.arange(2 * SEQUENCE).view(2, SEQUENCE) % ROWS
    try:
        theirs, normal = _theirs(folder, ids)
    except Exception as error:
        theirs, normal = None, {"error": f"{type(error).__name__}: {error}"[:200]}
    file.write_text(json.dumps(config))
    try:
        module = language_module(like=str(folder))
        shape = module.options.shape
        if theirs is not None:
            held = match(plugin.param_mappings(module), folder)
            if held.mistakes:
                return {"refused": "; ".join(held.mistakes)}
    except ValueError as error:
        return {"refused": str(error)}
    if theirs is None and "error" in normal:
        # Not even transformers makes a model of it.
        return {"neither": normal["error"]}
    if theirs is None:
        file.write_text(json.dumps(normal))
        again = language_module(like=str(folder)).options.shape
        return {"difference": 0.0 if again == shape else 1.0}
    if shape not in models:
        ours = Built(platform, Grid(), like=str(folder))
        ours.read(folder)
        with torch.no_grad():
            models[shape] = ours.logits(ids)
    return {"difference": difference(models[shape], theirs)}


def _theirs(folder: Path, ids: Tensor) -> tuple[Tensor | None, dict[str, Any]]:
    """Logits of transformers' model of the file, whose weights are then beside it; none of a large
    one. And the file as transformers writes it again."""
    config = AutoConfig.from_pretrained(folder)
    normal = json.loads(config.to_json_string(False))
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > _LARGEST:
        return None, normal
    experts = {"experts_implementation": "eager"} if "moe" in config.model_type else {}
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager", **experts
    ).eval()
    fill(model)
    model.save_pretrained(folder)
    with torch.no_grad():
        return model(ids, use_cache=False, return_dict=True).logits, normal


def _text_types() -> dict[str, Any]:
    """Whole models whose language model is of another type here than in transformers."""
    theirs = {}
    for kind in CONFIG_MAPPING:
        parts = getattr(CONFIG_MAPPING[kind], "sub_configs_defaults", None) or {}
        for below in config_json.BELOW:
            if below in parts and parts[below].model_type in CLASSES:
                theirs[kind] = parts[below].model_type
    return {
        kind: [TEXT_OF.get(kind), theirs.get(kind)]
        for kind in theirs.keys() | TEXT_OF.keys()
        if TEXT_OF.get(kind) != theirs.get(kind)
    }
