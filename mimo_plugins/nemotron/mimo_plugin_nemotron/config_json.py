"""``config.json`` of NemotronH, compared with the options.

Facts of transformers 5; a test compares them with its class, so that a key it adds is seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from mimo_core import ConfigKeys
from mimo_plugin_nemotron.options import CONVOLUTION_WIDTH, Options

BELOW = ("text_config", "llm_config")
"""Where a whole model has that of its language model."""
WHOLE = ("nemotron_h_omni", "nemo_speechlm")
"""Whole models whose ``text_config`` need not say that it is of NemotronH."""
KIND = "nemotron_h"
GATED_NORM_EPSILON = 1e-5
"""Of the norm inside Mamba2: fixed in megatron's ``MambaMixer``."""

KEYS = ConfigKeys(
    defaults={
        "vocab_size": 131072,
        "hidden_size": 4096,
        "layers_block_type": None,
        "hybrid_override_pattern": None,
        "tie_word_embeddings": False,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "attention_bias": False,
        "sliding_window": None,
        "intermediate_size": 21504,
        "mlp_hidden_act": "relu2",
        "mlp_bias": False,
        "ssm_state_size": 128,
        "mamba_num_heads": 128,
        "mamba_head_dim": 64,
        "mamba_hidden_act": "silu",
        "n_groups": 8,
        "conv_kernel": 4,
        "use_conv_bias": True,
        "use_bias": False,
        "n_routed_experts": 8,
        "moe_intermediate_size": 7688,
        "moe_shared_expert_intermediate_size": 7688,
        "moe_latent_size": None,
        "num_experts_per_tok": 2,
        "routed_scaling_factor": 1.0,
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": True,
        "layer_norm_epsilon": 1e-5,
        "quantization_config": None,
        "time_step_min": 0.001,
    },
    nullable=frozenset({"num_key_value_heads"}),
    training={"attention_dropout": 0.0, "hidden_dropout": 0.0},
    ignored=frozenset(
        {
            # How it is computed, and in what precision states are kept.
            *("chunk_size", "use_mamba_kernels", "mamba_ssm_cache_dtype", "residual_in_fp32"),
            *("moe_shared_expert_overlap", "num_logits_to_keep", "output_router_logits"),
            # First weights of a fresh model.
            *("time_step_max", "time_step_floor", "rescale_prenorm_residual"),
            # Not read by transformers, or said by other keys.
            *("expand", "max_position_embeddings", "mamba_proj_bias", "n_shared_experts"),
            *("num_hidden_layers", "time_step_limit", "rope_theta", "partial_rotary_factor"),
            # Heads that predict more than the next token.
            *("num_nextn_predict_layers", "mtp_layers_block_type", "mtp_hybrid_override_pattern"),
        }
    ),
)
_EARLIER = {
    "layer_types": "layers_block_type",
    "num_local_experts": "n_routed_experts",
    "mamba_n_groups": "n_groups",
    "mamba_d_conv": "conv_kernel",
    "mamba_dt_min": "time_step_min",
    "mamba_conv_bias": "use_conv_bias",
}
"""Other names that transformers reads."""
_SYMBOLS = {
    "linear_attention": "M",
    "mamba": "M",
    "full_attention": "*",
    "attention": "*",
    "mlp": "-",
    "moe": "E",
}
_NEGLIGIBLE_STEP = 1e-20
"""No step size of a trained model is as small."""


def mistakes(whole: Mapping[str, Any], options: Options, rows: int) -> Iterator[str]:
    """Where weights with this file compute something else than the options say, each to be read
    after the words "config.json".

    Args:
        whole: The file.
        options: Of the module.
        rows: Of its embedding.
    """
    said, at, kind = _part(whole)
    if kind != KIND:
        yield f"says {at}model_type {kind!r}; read is {KIND}"
        return
    pattern = options.pattern
    yield from KEYS.unlike(said, dict(_due(options, rows)), at)
    found = _pattern(said)
    if found != pattern:
        keys = ("layers_block_type", "hybrid_override_pattern")
        key = next((f"says {at}{key}" for key in keys if said.get(key)), None)
        says = key or f"lacks {at}{' and '.join(keys)}"
        yield f"{says}, so its layers are {found!r}: the option pattern is {pattern!r}"
    epsilon = KEYS.filled(said)["layer_norm_epsilon"]
    if "M" in pattern and not _near(epsilon, GATED_NORM_EPSILON):
        yield (
            f"says {at}layer_norm_epsilon {epsilon!r}: the gated norm of a Mamba2 layer has "
            f"{GATED_NORM_EPSILON} here, fixed in megatron-core"
        )
    if "E" in pattern and options.router_score != "sigmoid":
        yield (
            f"says model_type {KIND}, whose routers score by sigmoid, but the option router_score "
            f"is {options.router_score}"
        )


def config_of(options: Options, rows: int, positions: int) -> dict[str, Any]:
    """The config with which transformers computes the same; empty where it has no such model.

    Args:
        options: Of the module.
        rows: Of its embedding.
        positions: Longest sequence that it was trained on.
    """
    config = {
        "architectures": ["NemotronHForCausalLM"],
        "model_type": KIND,
        "hybrid_override_pattern": options.pattern,
        "max_position_embeddings": positions,
        # So small that it bounds no step size, as here.
        "time_step_min": _NEGLIGIBLE_STEP,
        **{key: value for key, (value, _) in _due(options, rows) if value is not None},
    }
    return {} if any(mistakes(config, options, rows)) else config


def notes(whole: Mapping[str, Any]) -> Iterator[str]:
    """What nothing reads of a file, each to be read after its name."""
    said, at, kind = _part(whole)
    if kind != KIND:
        return
    yield from KEYS.notes(said, at)
    least = KEYS.filled(said)["time_step_min"]
    if isinstance(least, int | float) and least > _NEGLIGIBLE_STEP:
        yield (
            f"has {at}time_step_min {least!r}, from which transformers bounds the step sizes of "
            "Mamba2; Megatron, which trained the released models, does not, nor does the module"
        )


def _due(options: Options, rows: int) -> Iterator[tuple[str, tuple[Any, str]]]:
    """Keys that the layers of the pattern read."""
    none = "there is none here"

    def option(name: str, value: Any = None) -> tuple[Any, str]:
        return getattr(options, name) if value is None else value, f"set the option {name}"

    yield "hidden_size", option("hidden_size")
    yield "vocab_size", option("vocabulary_size", rows)
    yield "tie_word_embeddings", option("tie_embeddings")
    yield "layer_norm_epsilon", option("norm_epsilon")
    yield "quantization_config", (None, "weights are not quantized here")
    if "*" in options.pattern:
        yield "num_attention_heads", option("attention_heads")
        yield "num_key_value_heads", option("kv_heads", options.kv_head_count)
        yield "head_dim", option("head_dim", options.attention_head_dim)
        yield "attention_bias", (False, none)
        yield "sliding_window", (None, "every layer looks at the whole sequence")
    if "M" in options.pattern:
        yield "mamba_num_heads", option("mamba_heads", options.mamba_head_count)
        yield "mamba_head_dim", option("mamba_head_dim")
        yield "ssm_state_size", option("mamba_state")
        yield "n_groups", option("mamba_groups")
        yield "conv_kernel", (CONVOLUTION_WIDTH, "the convolution has no other width")
        yield "use_conv_bias", (True, "the convolution has a bias")
        yield "use_bias", (False, none)
        yield "mamba_hidden_act", ("silu", "the layers have no other")
    if "-" in options.pattern:
        yield "intermediate_size", option("ffn_hidden_size", options.mlp_width)
    if "-" in options.pattern or "E" in options.pattern:
        yield "mlp_hidden_act", ("relu2", "the layers have no other")
        yield "mlp_bias", (False, none)
    if "E" in options.pattern:
        yield "n_routed_experts", option("experts")
        yield "num_experts_per_tok", option("experts_per_token")
        yield "moe_intermediate_size", option("expert_ffn_hidden_size", options.expert_width)
        yield (
            "moe_shared_expert_intermediate_size",
            option("shared_expert_ffn_hidden_size"),
        )
        yield "moe_latent_size", (None, none)
        yield "routed_scaling_factor", option("routed_scaling")
        yield "norm_topk_prob", (True, "the router normalises the scores of the chosen experts")
        for key in ("n_group", "topk_group"):
            yield key, (1, "experts are chosen from one group here")


def _part(whole: Mapping[str, Any]) -> tuple[dict[str, Any], str, Any]:
    """What a file says of the language model, where, and its type."""
    below = next((key for key in BELOW if isinstance(whole.get(key), dict)), None)
    said = dict(whole if below is None else whole[below])
    for earlier, key in _EARLIER.items():
        if earlier in said:
            said[key] = said.pop(earlier)
    if said.get("num_key_value_heads", 0) is None:
        said["num_key_value_heads"] = said.get("num_attention_heads")
    kind = said.get("model_type")
    if below is None:
        return said, "", kind
    if whole.get("tie_word_embeddings") is True:
        said["tie_word_embeddings"] = True
    if kind is None and whole.get("model_type") in WHOLE:
        kind = KIND
    return said, f"{below}.", kind


def _pattern(said: Mapping[str, Any]) -> str:
    """Characters of the layers, with ``?`` for those that are not known."""
    listed, text = said.get("layers_block_type"), said.get("hybrid_override_pattern")
    if isinstance(listed, list):
        return "".join(_SYMBOLS.get(str(one), "?") for one in listed)
    return "ME*-" if text is None else str(text)


def _near(found: Any, due: float) -> bool:
    return isinstance(found, int | float) and math.isclose(found, due, rel_tol=1e-6)
