"""``config.json`` of RADIO, compared with the options.

Facts of transformers 5; a test compares them with its class, so that a key it adds is seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from mimo_core import ConfigKeys
from mimo_plugin_radio.options import Options

BELOW = "vision_config"
"""Where a whole model has that of its tower."""
KIND = "radio"
WHOLE = "nemotron_h_omni"
"""A whole model whose ``vision_config`` need not say that it is RADIO's."""

KEYS = ConfigKeys(
    defaults={
        "hidden_size": 1280,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "mlp_ratio": 4.0,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "use_swiglu_ffn": False,
        "qkv_bias": True,
        "layerscale_value": 1.0,
        "num_channels": 3,
        "patch_size": 16,
        "max_img_size": 2048,
        "num_cls_tokens": 3,
        "num_registers": 7,
        "norm_mean": [0.48145466, 0.4578275, 0.40821073],
        "norm_std": [0.26862954, 0.26130258, 0.27577711],
        "quantization_config": None,
    },
    training={
        **dict.fromkeys(("attention_probs_dropout_prob", "hidden_dropout_prob"), 0.0),
        "drop_path_rate": 0.0,
    },
    ignored=frozenset(
        {
            # Of videos and of what sums a picture up; sizes that follow from others.
            *("video_temporal_patch_size", "video_patch_dim", "summary_idxs", "patch_dim"),
            "image_size",
        }
    ),
)


def mistakes(whole: Mapping[str, Any], options: Options) -> Iterator[str]:
    """Where weights with this file compute something else than the options say, each to be read
    after the words "config.json".

    NVIDIA's own releases have no ``model_type``; of such a file what it says is compared, and what
    it lacks is not known.
    """
    said, at, kind = _part(whole)
    if kind not in (None, KIND):
        yield f"says {at}model_type {kind!r}; read is {KIND}"
        return
    due = _due(options)
    if kind is None:
        due = {key: value for key, value in due.items() if said.get(key) is not None}
    yield from KEYS.unlike(said, due, at)
    filled = KEYS.filled(said)
    numbers = {
        "mlp_ratio": ("ffn_hidden_size", options.tower_ffn_width),
        "num_cls_tokens": ("class_tokens", options.class_tokens),
    }
    for key, (name, value) in numbers.items():
        if kind is None and said.get(key) is None:
            continue
        found = _product(filled) if key == "mlp_ratio" else _tokens(filled)
        if found != value:
            yield (
                f"gives {found!r} by {at}{key} {filled[key]!r}"
                f"{_registers(filled, at) if key == 'num_cls_tokens' else ''}, but the option "
                f"{name} is {value}"
            )
    ratio = whole.get("downsample_ratio", 0.5) if whole.get("model_type") == WHOLE else 0.5
    if options.pixel_shuffle and ratio != 0.5:
        yield f"says downsample_ratio {ratio!r}: the option pixel_shuffle joins 2x2 patches (0.5)"


def config_of(options: Options) -> dict[str, Any]:
    """The config with which transformers computes the same; empty where it has no such tower.

    One of the class tokens sums a picture up; no row that is read depends on which.
    """
    width, inner = options.tower_width, options.tower_ffn_width
    ratio = inner / width
    config = {
        "architectures": ["RadioModel"],
        "model_type": KIND,
        # Transformers rounds the product down.
        "mlp_ratio": ratio if int(width * ratio) == inner else math.nextafter(ratio, math.inf),
        "num_cls_tokens": 1,
        "num_registers": options.class_tokens - 1,
        "summary_idxs": [0],
        **{key: value for key, (value, _) in _due(options).items() if value is not None},
    }
    return config if options.class_tokens else {}


def notes(whole: Mapping[str, Any]) -> Iterator[str]:
    """What nothing reads of a file, each to be read after its name."""
    said, at, kind = _part(whole)
    if kind == KIND:
        yield from KEYS.notes(said, at)
    elif kind is None:
        yield f"says no {at}model_type: what it does not say of the tower is as the options say"


def _due(options: Options) -> dict[str, tuple[Any, str]]:
    return {
        "hidden_size": (options.tower_width, "set the option hidden_size"),
        "num_hidden_layers": (options.tower_layers, "set the option layers"),
        "num_attention_heads": (options.tower_heads, "set the option heads"),
        "hidden_act": ("gelu", "the tower has no other"),
        "layer_norm_eps": (options.norm_epsilon, "set the option norm_epsilon"),
        "use_swiglu_ffn": (False, "the tower has no other feed-forward layers"),
        "qkv_bias": (True, "queries, keys and values have biases here"),
        "layerscale_value": (1.0, "Megatron's layers have no layer scale"),
        "num_channels": (3, "pictures have three colours"),
        "patch_size": (options.patch_size, "set the option patch_size"),
        "max_img_size": (options.max_image_size, "set the option max_image_size"),
        "norm_mean": (list(options.mean), "set the option mean"),
        "norm_std": (list(options.std), "set the option std"),
        "quantization_config": (None, "weights are not quantized here"),
    }


def _part(whole: Mapping[str, Any]) -> tuple[Mapping[str, Any], str, Any]:
    """What a file says of the tower, where, and its type."""
    below = whole.get(BELOW)
    if not isinstance(below, dict):
        return whole, "", whole.get("model_type")
    kind = below.get("model_type")
    if kind is None and whole.get("model_type") == WHOLE:
        kind = KIND
    return below, f"{BELOW}.", kind


def _product(filled: Mapping[str, Any]) -> int | None:
    """Width inside the feed-forward layers; ``None`` of what is no number."""
    width, ratio = filled["hidden_size"], filled["mlp_ratio"]
    numbers = type(width) is int and type(ratio) in (int, float)
    return int(width * ratio) if numbers else None


def _tokens(filled: Mapping[str, Any]) -> int | None:
    """Class and register tokens together; ``None`` of what is no number."""
    parts = (filled["num_cls_tokens"], filled["num_registers"])
    return sum(parts) if all(type(part) is int for part in parts) else None


def _registers(filled: Mapping[str, Any], at: str) -> str:
    return f" and {at}num_registers {filled['num_registers']!r}"
