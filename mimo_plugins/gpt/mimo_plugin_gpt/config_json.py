"""``config.json`` of transformers' decoders, as a shape, and back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mimo_plugin_gpt.config_types import ROPE_KEYS, ROPE_READ, mistyped
from mimo_plugin_gpt.shape import Shape

NAME = "config.json"
BELOW = ("text_config", "llm_config")
"""Where a whole vision-language model has that of its language model."""

CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
"""Model types that are read."""

_KEYS = {
    "hidden_size": "hidden_size",
    "layers": "num_hidden_layers",
    "attention_heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "ffn_hidden_size": "intermediate_size",
    "norm_epsilon": "rms_norm_eps",
    "tie_embeddings": "tie_word_embeddings",
    "vocabulary_size": "vocab_size",
}
_EXPERT_KEYS = {
    "mixtral": {
        "experts": "num_local_experts",
        "experts_per_token": "num_experts_per_tok",
        "expert_ffn_hidden_size": "intermediate_size",
    },
    "qwen3_moe": {
        "experts": "num_experts",
        "experts_per_token": "num_experts_per_tok",
        "expert_ffn_hidden_size": "moe_intermediate_size",
        "router_normalized": "norm_topk_prob",
    },
}
_REQUIRED = ("hidden_size", "layers", "attention_heads", "norm_epsilon", "vocabulary_size")
_TOLD_BY_SHAPES = frozenset({"hidden_size", "layers", "ffn_hidden_size", "vocabulary_size"}) | {
    "experts",
    "expert_ffn_hidden_size",
    "qkv_bias",
    "qk_norm",
}
"""Fields of which names and shapes of the weights say all."""

_WINDOWS = {"mistral": 4096, "qwen2": 4096, "qwen3": 4096, "qwen3_moe": 4096}
"""``sliding_window`` of transformers (5.23) where a file does not say it; ``null`` says none."""

_LLAMA3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""What megatron-core's ``RotaryEmbedding`` has fixed beside the factor."""


def read_shape(directory: Path) -> dict[str, Any]:
    """Fields of a shape, from a directory's file.

    Raises:
        ValueError: there is none, it is of a model of another kind, lacks a size, or has a value of
            another type.
    """
    path = directory / NAME
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"like: {path} cannot be read ({error.strerror}; from {Path.cwd()}); give a directory "
            f"with the {NAME} of a model"
        ) from error
    except ValueError as error:
        raise ValueError(f"like: {path} holds no JSON ({error})") from error
    if not isinstance(whole, dict):
        raise ValueError(f"like: {path} holds {type(whole).__name__}, not an object")
    config = next((whole[key] for key in BELOW if isinstance(whole.get(key), dict)), whole)
    if wrong := list(mistyped(config)):
        raise ValueError(f"like: {path} " + "; ".join(wrong))
    refused = list(_refused(config))
    values = _values(config)
    lacking = [name for name in (*_REQUIRED, *_expert_keys(config)) if values.get(name) is None]
    if lacking and not refused:
        refused = [f"lacks {', '.join(_key(config, name) for name in lacking)}"]
    if refused:
        raise ValueError(f"like: {path} " + "; ".join(refused))
    return values


def mistakes(config: Mapping[str, Any], shape: Shape) -> Iterator[str]:
    """Where weights with this config compute something else than a model of this shape.

    Read after the words "config.json"; what is absent is not known to differ.
    """
    refused = list(mistyped(config)) or list(_refused(config))
    yield from refused
    if refused:
        return
    for name, value in _values(config).items():
        due = getattr(shape, name)
        if name in _TOLD_BY_SHAPES or (name in _expert_keys(config) and not shape.experts):
            continue
        # Some files hold the float32 that is nearest to what was meant.
        if value == due or (isinstance(due, float) and math.isclose(value, due, rel_tol=1e-6)):
            continue
        yield f"says {_key(config, name)} {value!r}, but the option {name} is {due!r}"


def family(shape: Shape) -> str:
    """The model type whose files name such weights."""
    if shape.experts:
        return "qwen3_moe" if shape.qk_norm else "mixtral"
    if shape.qk_norm:
        return "qwen3"
    return "qwen2" if shape.qkv_bias else "llama"


def config_of(shape: Shape, rows: int, positions: int) -> dict[str, Any]:
    """The config with which transformers computes the same; empty where it has no such model.

    Args:
        shape: Of the model.
        rows: Of its embedding.
        positions: Longest sequence that it was trained on.
    """
    kind = family(shape)
    known = _known_of_kind(kind, shape)
    if any(getattr(shape, name) != value for name, value in known.items()):
        return {}
    keys = _KEYS | _EXPERT_KEYS.get(kind, {})
    config = {key: getattr(shape, name) for name, key in keys.items()}
    config |= {
        "architectures": [CLASSES[kind]],
        "model_type": kind,
        "hidden_act": "silu",
        "vocab_size": rows,
        "max_position_embeddings": positions,
        "rope_theta": shape.rope_base,
    }
    if shape.rope_scaling != 1:
        config["rope_scaling"] = {"rope_type": "llama3", "factor": shape.rope_scaling, **_LLAMA3}
    return config


def _known_of_kind(kind: str, shape: Shape) -> dict[str, Any]:
    """Fields that a model type leaves no choice of."""
    known: dict[str, Any] = {
        "qkv_bias": kind == "qwen2",
        "qk_norm": kind in ("qwen3", "qwen3_moe"),
    }
    if kind == "mixtral":
        known["router_normalized"] = True
    if kind not in _EXPERT_KEYS:
        known["experts"] = 0
    return known


def _expert_keys(config: Mapping[str, Any]) -> dict[str, str]:
    return _EXPERT_KEYS.get(str(config.get("model_type")), {})


def _key(config: Mapping[str, Any], name: str) -> str:
    keys = {"rope_base": "rope_theta", "rope_scaling": "rope_scaling.factor"}
    return (_KEYS | keys | _expert_keys(config)).get(name, name)


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary positions as transformers 5 writes them, or as earlier versions did."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return dict(rope)


def _rope_type(config: Mapping[str, Any]) -> str:
    rope = _rope(config)
    return str(rope.get("rope_type") or rope.get("type") or "default")


def _values(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a shape that the config says."""
    kind = str(config.get("model_type"))
    keys = _KEYS | _EXPERT_KEYS.get(kind, {})
    values = {name: config[key] for name, key in keys.items() if config.get(key) is not None}
    if kind in _EXPERT_KEYS and "num_local_experts" in config:  # what transformers 5 writes
        values["experts"] = config["num_local_experts"]
    base = _rope(config).get("rope_theta", config.get("rope_theta"))
    if base is not None:
        values["rope_base"] = float(base)
    if _rope_type(config) == "llama3":
        values["rope_scaling"] = float(_rope(config).get("factor") or 1)
    elif set(ROPE_KEYS) & set(config):
        values["rope_scaling"] = 1.0
    if "hidden_size" in values and values.get("attention_heads"):
        values.setdefault("head_dim", values["hidden_size"] // values["attention_heads"])
        values.setdefault("kv_heads", values["attention_heads"])
    if kind in CLASSES:
        fixed = {"qkv_bias": kind == "qwen2", "qk_norm": kind in ("qwen3", "qwen3_moe")}
        values |= fixed if kind in _EXPERT_KEYS else fixed | {"experts": 0}
    return values


def _refused(config: Mapping[str, Any]) -> Iterator[str]:
    """What the config wants and this model has not."""
    kind = config.get("model_type")
    if kind not in CLASSES:
        yield f"says model_type {kind!r}; read are {', '.join(CLASSES)}"
        return
    if (act := config.get("hidden_act", "silu")) not in ("silu", "swish"):
        yield f"says hidden_act {act!r}; the gate has no other than silu here"
    for key, what in {
        "attention_bias": "a bias of the attention's output",
        "mlp_bias": "biases of the MLPs",
        "mlp_only_layers": "dense layers among those of experts",
        "quantization_config": "quantized weights",
    }.items():
        if config.get(key):
            yield f"says {key}: {what} cannot be here"
    if config.get("decoder_sparse_step", 1) != 1:
        yield "says decoder_sparse_step: dense layers among those of experts cannot be here"
    windowed = config.get("use_sliding_window", kind in ("mistral", "mixtral"))
    window = config.get("sliding_window", _WINDOWS.get(kind))
    if windowed and window is not None:
        says = "says" if "sliding_window" in config else "says nothing, which transformers takes as"
        yield f"{says} sliding_window {window}: every layer here looks at the whole sequence"
    yield from _refused_rope(config)


def _refused_rope(config: Mapping[str, Any]) -> Iterator[str]:
    rope, kind = _rope(config), _rope_type(config)
    if rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1)) != 1:
        yield "says partial_rotary_factor: all features of a head are turned here"
    if kind == "llama3":
        for key, due in _LLAMA3.items():
            if (held := rope.get(key, due)) != due:
                yield f"says {key} {held}: with rope_type llama3 megatron-core has {due}"
    elif kind != "default":
        yield f"says rope_type {kind!r}; {ROPE_READ}"
    elif not {"rope_type", "type"} & set(rope) and (rope.get("factor") or 1) != 1:
        yield f"says rope_scaling {rope} without its rope_type; {ROPE_READ}"
