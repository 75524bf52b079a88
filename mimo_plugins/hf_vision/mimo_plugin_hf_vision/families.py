"""What is known of some towers without transformers: class tokens, and names and shapes of their
tensors in files.

Facts of transformers' ``Siglip``, ``CLIP`` and ``Dinov2`` vision models; the tests hold them
against these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Tensors = Iterator[tuple[str, tuple[int, ...]]]
"""Names in files, and shapes."""

CLASS_TOKENS: Mapping[str, Callable[[Mapping[str, Any]], int]] = {
    "clip_vision_model": lambda _: 1,
    "siglip_vision_model": lambda _: 0,
    "dinov2": lambda _: 1,
    "dinov2_with_registers": lambda config: 1 + int(config["num_register_tokens"]),
    "dinov3_vit": lambda config: 1 + int(config["num_register_tokens"]),
    "vit": lambda _: 1,
    "deit": lambda _: 2,
    "ijepa": lambda _: 0,
}
"""Class and register tokens before the patches, by the type of tower, of its config with
all keys."""


def class_tokens(model_type: str, config: Mapping[str, Any]) -> int | None:
    """Class and register tokens before the patches; ``None`` where it is not known."""
    count = CLASS_TOKENS.get(model_type)
    return None if count is None else count(config)


def _clip(config: Mapping[str, Any]) -> Tensors:
    width, patches = config["hidden_size"], _patches(config)
    yield "embeddings.class_embedding", (width,)
    yield "embeddings.patch_embedding.weight", _convolution(config)
    yield "embeddings.position_embedding.weight", (patches + 1, width)
    yield from _norm("pre_layrnorm", width)
    yield from _layers(config)
    yield from _norm("post_layernorm", width)


def _siglip(config: Mapping[str, Any]) -> Tensors:
    width, inner = config["hidden_size"], config["intermediate_size"]
    yield "embeddings.patch_embedding.weight", _convolution(config)
    yield "embeddings.patch_embedding.bias", (width,)
    yield "embeddings.position_embedding.weight", (_patches(config), width)
    yield from _layers(config)
    yield from _norm("post_layernorm", width)
    if config["vision_use_head"]:
        yield "head.probe", (1, 1, width)
        yield "head.attention.in_proj_weight", (3 * width, width)
        yield "head.attention.in_proj_bias", (3 * width,)
        yield from _linear("head.attention.out_proj", width, width)
        yield from _norm("head.layernorm", width)
        yield from _linear("head.mlp.fc1", inner, width)
        yield from _linear("head.mlp.fc2", width, inner)


def _layers(config: Mapping[str, Any]) -> Tensors:
    """Of CLIP, and of SigLIP."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    for layer in range(config["num_hidden_layers"]):
        name = f"encoder.layers.{layer}."
        for projection in "qkv":
            yield from _linear(f"{name}self_attn.{projection}_proj", width, width)
        yield from _linear(f"{name}self_attn.out_proj", width, width)
        yield from _norm(f"{name}layer_norm1", width)
        yield from _linear(f"{name}mlp.fc1", inner, width)
        yield from _linear(f"{name}mlp.fc2", width, inner)
        yield from _norm(f"{name}layer_norm2", width)


def _dinov2(config: Mapping[str, Any]) -> Tensors:
    width = config["hidden_size"]
    yield "embeddings.cls_token", (1, 1, width)
    if config["use_mask_token"]:
        yield "embeddings.mask_token", (1, width)
    yield "embeddings.position_embeddings", (1, _patches(config) + 1, width)
    yield "embeddings.patch_embeddings.projection.weight", _convolution(config)
    yield "embeddings.patch_embeddings.projection.bias", (width,)
    for layer in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{layer}."
        yield from _norm(f"{name}norm1", width)
        for projection in ("query", "key", "value"):
            attention = f"{name}attention.attention.{projection}"
            yield from _linear(attention, width, width, bias=config["qkv_bias"])
        yield from _linear(f"{name}attention.output.dense", width, width)
        yield f"{name}layer_scale1.lambda1", (width,)
        yield from _norm(f"{name}norm2", width)
        yield from _dinov2_mlp(f"{name}mlp.", config)
        yield f"{name}layer_scale2.lambda1", (width,)
    yield from _norm("layernorm", width)


def _dinov2_mlp(name: str, config: Mapping[str, Any]) -> Tensors:
    width = config["hidden_size"]
    inner = int(width * config["mlp_ratio"])
    if config["use_swiglu_ffn"]:
        inner = (int(inner * 2 / 3) + 7) // 8 * 8
        yield from _linear(f"{name}weights_in", 2 * inner, width)
        yield from _linear(f"{name}weights_out", width, inner)
    else:
        yield from _linear(f"{name}fc1", inner, width)
        yield from _linear(f"{name}fc2", width, inner)


TENSORS: Mapping[str, Callable[[Mapping[str, Any]], Tensors]] = {
    "clip_vision_model": _clip,
    "siglip_vision_model": _siglip,
    "dinov2": _dinov2,
}

UNREAD: Mapping[str, tuple[str, ...]] = {
    "clip_vision_model": ("post_layernorm.",),
    "siglip_vision_model": ("head.",),
    "dinov2": ("embeddings.mask_token",),
}
"""What names begin with that the tower's output does not depend on."""

FINAL_NORM: Mapping[str, str] = {
    "siglip_vision_model": "post_layernorm.",
    "dinov2": "layernorm.",
}
"""What the names of the norm behind the last layer begin with, where the output passes it."""

IGNORED = {
    # Dropouts, of training.
    *("attention_dropout", "attention_probs_dropout_prob", "drop_path_rate", "dropout"),
    "hidden_dropout_prob",
    # First weights, heads that are not here, and names of layers.
    *("layerscale_value", "projection_dim", "pooler_act", "pooler_output_size", "encoder_stride"),
    *("apply_layernorm", "reshape_hidden_states", "stage_names", "out_features", "out_indices"),
    *("vocab_size", "use_mask_token", "vision_use_head"),
}
"""Keys of a tower that change none of its rows."""

FOREIGN: Mapping[str, str] = {
    "embeddings.position_ids": "numbers that transformers 4 saved beside the weights",
    "embeddings.mask_token": "stands for masked patches, where the config says that there is none",
    "head.*": "pools a picture, where the config says that there is no head",
}
"""Names that a file of these towers may hold and the tower does not."""


def sides(config: Mapping[str, Any], key: str) -> tuple[int, int]:
    """Height and width of a config's ``image_size`` or ``patch_size``, one number or two."""
    value = config[key]
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _patches(config: Mapping[str, Any]) -> int:
    image, patch = sides(config, "image_size"), sides(config, "patch_size")
    return (image[0] // patch[0]) * (image[1] // patch[1])


def _convolution(config: Mapping[str, Any]) -> tuple[int, ...]:
    return (config["hidden_size"], config["num_channels"], *sides(config, "patch_size"))


def _linear(name: str, rows: int, columns: int, *, bias: bool = True) -> Tensors:
    yield f"{name}.weight", (rows, columns)
    if bias:
        yield f"{name}.bias", (rows,)


def _norm(name: str, width: int) -> Tensors:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)
