"""Types of what is read of a decoder's ``config.json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mimo_core import wrong_types

_TYPES: Mapping[str, Any] = {
    "model_type": str,
    "hidden_act": str,
    **dict.fromkeys(("rms_norm_eps", "rope_theta", "partial_rotary_factor"), float),
    **dict.fromkeys(
        (
            *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
            *("head_dim", "intermediate_size", "vocab_size", "sliding_window"),
            *("num_experts", "num_local_experts", "num_experts_per_tok", "moe_intermediate_size"),
            *("decoder_sparse_step", "max_position_embeddings"),
            "original_max_position_embeddings",
        ),
        int,
    ),
    **dict.fromkeys(
        (
            *("tie_word_embeddings", "norm_topk_prob", "use_sliding_window"),
            *("attention_bias", "mlp_bias"),
        ),
        bool,
    ),
    "layer_types": list[str],
    "mlp_only_layers": list[int],
}
"""Of all that is read; what is below ``rope_scaling`` is :data:`ROPE_TYPES`."""
ROPE_KEYS = ("rope_parameters", "rope_scaling")
ROPE_TYPES: Mapping[str, Any] = {
    **dict.fromkeys(("rope_type", "type"), str),
    **dict.fromkeys(("factor", "rope_theta", "partial_rotary_factor"), float),
    **dict.fromkeys(("low_freq_factor", "high_freq_factor"), float),
    "original_max_position_embeddings": int,
}
ROPE_READ = "read are rope_type default and llama3"


def mistyped(config: Mapping[str, Any], at: str = "") -> Iterator[str]:
    """What cannot be read as what it should be; before all else.

    Args:
        config: The object of the file that has the keys.
        at: Where the object is in the file: ``text_config.``, or nothing.
    """
    placed = {at + key: value for key, value in config.items()}
    yield from wrong_types(placed, {at + key: kind for key, kind in _TYPES.items()})
    for key in ROPE_KEYS:
        wrong = list(wrong_types(placed, {at + key: dict}))
        yield from (f"{said}: {ROPE_READ}" for said in wrong)
        if not wrong:
            inner = config.get(key) or {}
            values = {f"{at}{key}.{name}": value for name, value in inner.items()}
            due = {f"{at}{key}.{name}": kind for name, kind in ROPE_TYPES.items()}
            yield from wrong_types(values, due)
