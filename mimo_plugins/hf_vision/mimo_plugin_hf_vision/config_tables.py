"""Keys of the towers' ``config.json`` by ``model_type``, and which values cannot be computed.

Facts of transformers' classes, which a test compares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mimo_core import ConfigKeys, wrong_types

_SIZES = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
}
_CLIP = {
    **_SIZES,
    "patch_size": 32,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-5,
    "hidden_act": "quick_gelu",
    "attention_dropout": 0.0,
    "projection_dim": 512,
}
_SIGLIP = {
    **_SIZES,
    "patch_size": 16,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu_pytorch_tanh",
    "attention_dropout": 0.0,
    "vision_use_head": True,
}
_DROPOUTS = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_BACKBONE = {
    "layerscale_value": 1.0,
    "drop_path_rate": 0.0,
    "apply_layernorm": True,
    "reshape_hidden_states": True,
}
_DINOV2 = {
    **_SIZES,
    **_DROPOUTS,
    **_BACKBONE,
    "patch_size": 14,
    "mlp_ratio": 4,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu",
    "qkv_bias": True,
    "use_swiglu_ffn": False,
}
_DINOV3 = {
    **_SIZES,
    **_BACKBONE,
    "hidden_size": 384,
    "num_attention_heads": 6,
    "patch_size": 16,
    "intermediate_size": 1536,
    "layer_norm_eps": 1e-5,
    "hidden_act": "gelu",
    "attention_dropout": 0.0,
    "rope_theta": 100.0,
    "num_register_tokens": 0,
    **dict.fromkeys(("query_bias", "value_bias", "proj_bias", "mlp_bias"), True),
    **dict.fromkeys(("key_bias", "use_gated_mlp"), False),
    **dict.fromkeys(("pos_embed_shift", "pos_embed_jitter")),
    "pos_embed_rescale": 2.0,
}
_VIT = {
    **_SIZES,
    **_DROPOUTS,
    "patch_size": 16,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "qkv_bias": True,
    "pooler_act": "tanh",
    "pooler_output_size": None,
}
_NAMES = frozenset({"stage_names", "out_features", "out_indices"})
"""Keys that name layers for others."""
KEYS: Mapping[str, ConfigKeys] = {
    "clip_vision_model": ConfigKeys(defaults=_CLIP),
    "siglip_vision_model": ConfigKeys(defaults=_SIGLIP),
    "dinov2": ConfigKeys(defaults={**_DINOV2, "use_mask_token": True}, ignored=_NAMES),
    "dinov2_with_registers": ConfigKeys(
        defaults={**_DINOV2, "patch_size": 16, "num_register_tokens": 4}, ignored=_NAMES
    ),
    "dinov3_vit": ConfigKeys(
        defaults=_DINOV3, nullable=frozenset({"pos_embed_rescale"}), ignored=_NAMES
    ),
    "vit": ConfigKeys(defaults={**_VIT, "encoder_stride": 16}),
    "deit": ConfigKeys(defaults={**_VIT, "encoder_stride": 16}),
    "ijepa": ConfigKeys(defaults=_VIT),
}
"""Each key with what a file that lacks it means."""

ACTIVATIONS = frozenset(
    {
        *("gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python"),
        *("gelu_python_tanh", "gelu_pytorch_tanh", "hardswish", "laplace", "leaky_relu", "linear"),
        *("mish", "quick_gelu", "relu", "relu2", "relu6", "sigmoid", "silu", "sqrtsoftplus"),
        *("swish", "tanh"),
    }
)
"""Names of functions without parameters of their own."""

_SQUARE = frozenset({"clip_vision_model", "siglip_vision_model"})
"""Towers of which transformers computes square pictures and patches only, of one number each."""
_SAME_SIDES = frozenset({"dinov2", "dinov2_with_registers"})
"""Towers of which transformers computes square pictures only, of one number or two."""


def mistakes(model_type: str, config: Mapping[str, Any], at: str) -> Iterator[str]:
    """Values of a tower's keys that transformers refuses or cannot compute.

    Args:
        model_type: The tower's type; of one without a table nothing is known.
        config: The tower's keys, as they stand in the file.
        at: Where they are in the file, before a key: ``vision_config.``, or nothing.

    Yields:
        Each to be read after the name of the file.
    """
    keys = KEYS.get(model_type)
    if keys is None:
        return
    yield from keys.nulls(config, at)
    types = {at + key: _type(model_type, key, value) for key, value in keys.defaults.items()}
    wrong = [
        *wrong_types({at + key: value for key, value in config.items()}, types),
        *_whole_numbers(keys, config, at),
    ]
    yield from wrong
    if wrong:
        return
    filled = keys.filled(config)
    for key in ("hidden_act", "pooler_act"):
        if filled.get(key, "gelu") not in ACTIVATIONS:
            known = ", ".join(sorted(ACTIVATIONS))
            yield f"says {at}{key} {filled[key]!r}; expected one of {known}"
    width, heads = filled["hidden_size"], filled["num_attention_heads"]
    if heads > 0 and width % heads:
        yield f"says {at}hidden_size {width}, which {at}num_attention_heads {heads} do not divide"
    yield from _wrong_sides(model_type, filled, at)


def _whole_numbers(keys: ConfigKeys, config: Mapping[str, Any], at: str) -> Iterator[str]:
    """Of numbers with a fraction, dropouts may be whole in transformers' classes."""
    for key, default in keys.defaults.items():
        number = isinstance(default, float) or key.startswith("pos_embed_")
        dropout = "dropout" in key or key == "drop_path_rate"
        if number and not dropout and type(config.get(key)) is int:
            value = config[key]
            yield f"says {at}{key} {value}; transformers reads it with a decimal point: {value}.0"


def _wrong_sides(model_type: str, filled: Mapping[str, Any], at: str) -> Iterator[str]:
    image, patch = (_sides(filled[key]) for key in ("image_size", "patch_size"))
    if len(image) != 2 or len(patch) != 2 or min(patch) < 1:
        return  # refused for every type
    if model_type in _SAME_SIDES and image[0] != image[1]:
        yield (
            f"says {at}image_size {list(image)}; transformers computes square pictures only with a "
            f"tower of model_type {model_type!r}"
        )
    if any(one < other for one, other in zip(image, patch, strict=True)):
        yield f"says {at}image_size {filled['image_size']}, smaller than a patch: " + (
            f"{at}patch_size is {filled['patch_size']}"
        )


def _sides(value: int | list[int]) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _type(model_type: str, key: str, default: Any) -> Any:
    """The type of a key's values in transformers' class."""
    if key in ("image_size", "patch_size"):
        return int if model_type in _SQUARE else int | list[int]
    if default is None:
        return int if key == "pooler_output_size" else float
    return type(default)
