"""Towers whose files differ in one key, read here and by transformers; only ranks import this."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hf_tiny import TOWER, tiny_module
from megatron.core.transformer.spec_utils import build_module
from mimo_plugin_hf_vision.config_tables import ACTIVATIONS, KEYS
from mimo_plugin_hf_vision.families import CLASS_TOKENS
from mimo_plugin_hf_vision.plugin import build_submodule, describe_module, param_mappings
from transformers import CONFIG_MAPPING, AutoModel
from transformers.activations import ACT2FN

from mimo_core import Grid, MediaItem
from mimo_core.distributed.process_groups import build_topology
from mimo_core.distributed.seeding import seed_module
from mimo_core.errors import MimoError
from mimo_core.testing.config_cases import (
    ABSENT,
    cases,
    fill,
    other_defaults,
    unknown_fields,
)
from mimo_core.testing.weights import read_parts

_INNER = {"intermediate_size": 24}
_VALUES: dict[str, list[Any]] = {
    "hidden_act": ["gelu", "gelu_pytorch_tanh", "relu", "quick_gelu", "strange"],
    "hidden_size": [32, 15],
    "image_size": [18, [16, 24], [16], 0, "16"],
    "layer_norm_eps": [0.1, 1],
    "layerscale_value": [0.5, 2],
    "mlp_ratio": [2, 2.5],
    "model_type": [],
    "num_attention_heads": [4, 3],
    "num_channels": [1, 4],
    "num_hidden_layers": [0],
    "out_features": [],
    "out_indices": [],
    "patch_size": [8, 5, [4, 8], 32],
    "pooler_act": ["relu"],
    "rope_theta": [10.0, 10],
    "stage_names": [],
}
_OTHERS = {
    "num_hidden_layers=1": {
        "num_hidden_layers": 1,
        **dict.fromkeys(("out_features", "out_indices", "stage_names"), ABSENT),
    }
}
_QUICK = ("layer_norm_eps=absent", "layer_norm_eps=0.1", "num_attention_heads=null", "patch_size=8")


def base(kind: str) -> dict[str, Any]:
    """A whole file of a tower, with all keys of its class."""
    config_class = CONFIG_MAPPING[kind]
    known = json.loads(config_class().to_json_string(False))
    small = {key: value for key, value in {**TOWER, **_INNER}.items() if key in known}
    return json.loads(config_class(**small).to_json_string(False))  # type: ignore[no-any-return]


def one_rank(platform: Any, folder: str) -> dict[str, Any]:
    """Every case of every type."""
    groups = build_topology({"vision": Grid()}, {"vision": 0}, platform.backend).groups["vision"]
    seed_module(7, "vision.", groups)
    return {kind: compared(kind, Path(folder) / kind, groups, platform) for kind in KEYS}


def quick(folder: Path, groups: Any, platform: Any) -> dict[str, Any]:
    """A few cases of a few types, which every run of the tests tries."""
    found = {
        kind: compared(kind, folder / kind, groups, platform, _QUICK)
        for kind in ("clip_vision_model", "dinov2_with_registers", "dinov3_vit")
    }
    return {f"{kind} {name}": case for kind, cases in found.items() for name, case in cases.items()}


def tables() -> dict[str, Any]:
    """Where the tables differ from transformers' classes, by what differs."""
    found: dict[str, Any] = {
        "activations": sorted(ACTIVATIONS - ACT2FN.keys()),
        "class tokens": sorted(KEYS.keys() ^ CLASS_TOKENS.keys()),
    }
    for kind, keys in KEYS.items():
        found[f"unknown keys of {kind}"] = unknown_fields(base(kind), keys)
        found[f"defaults of {kind}"] = other_defaults(CONFIG_MAPPING[kind], keys)
    return {what: differences for what, differences in found.items() if differences}


def compared(
    kind: str, folder: Path, groups: Any, platform: Any, only: Sequence[str] = ()
) -> dict[str, Any]:
    """What became of each file, by the name of its case."""
    whole = base(kind)
    files = [("nothing", "", whole), *cases(whole, _VALUES, _OTHERS)]
    found = {}
    for number, (name, key, config) in enumerate(files):
        if not only or name in only:
            path = folder / str(number)
            path.mkdir(parents=True)
            found[name] = {"key": key, **_case(config, path, groups, platform)}
    return found


def _case(config: dict[str, Any], path: Path, groups: Any, platform: Any) -> dict[str, Any]:
    """The largest difference of rows relative to the largest number, or what is refused."""
    (path / "config.json").write_text(json.dumps(config))
    model, why = _theirs(config)
    if model is not None:
        model.config.output_attentions = False  # else this attention cannot be saved
        model.save_pretrained(path)
        (path / "config.json").write_text(json.dumps(config))
    module = tiny_module(path, tokens="all", mean=(0.5,) * 3, std=(0.5,) * 3)
    try:
        description = describe_module(module)
        weights = param_mappings(module) if model is not None else None
        tower = build_module(build_submodule(module, groups, platform).tower).eval()
        if weights is not None:
            read_parts(module, weights, {"encoder": tower}, groups, path)
    except (MimoError, ValueError) as error:
        return {"refused": str(error)}
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"[:300]}
    if model is None:
        return {"neither": why}
    size = model.config.image_size
    sides = size if isinstance(size, list | tuple) else (size, size)
    pixels = torch.randn(2, 3, *sides, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        due = model(pixel_values=pixels, return_dict=True).last_hidden_state.flatten(0, 1)
        rows = tower(pixel_values=pixels)
    media = MediaItem(modality="image", shape=(9, 9), load=lambda _: None)  # type: ignore[arg-type, return-value]
    described = {
        "rows": 2 * sum(description.count_positions([media])),  # type: ignore[misc]
        "width": description.hidden_size,
        "parameters": sum(
            one.num_parameters for one in description.parameters if one.component != "projector"
        ),
    }
    actual = {
        "rows": len(due),
        "width": due.shape[1],
        "parameters": sum(one.numel() for one in model.parameters()),
    }
    if rows.shape != due.shape or described != actual:
        return {"described": described, "actual": actual}
    return {"difference": float((rows - due).abs().max() / due.abs().max())}


def _theirs(config: dict[str, Any]) -> tuple[Any, str]:
    """The model that transformers makes of a file; ``None`` and why if it makes none that
    computes."""
    try:
        # Without it the rows are the same, but some types of transformers fail.
        given = {**config, "return_dict": True}
        model = AutoModel.from_config(CONFIG_MAPPING[config["model_type"]].from_dict(given))
        fill(model.eval())
        size = model.config.image_size
        sides = size if isinstance(size, list | tuple) else (size, size)
        with torch.no_grad():
            model(pixel_values=torch.randn(1, 3, *sides))
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"[:200]
    return model, ""
