"""Keys of ``config.json`` of each type of decoder that is read, and defaults of its class.

Facts of transformers 5; a test compares them with its classes, so that a key it adds is seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mimo_core import ConfigKeys

CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
"""Model types that are read."""

TEXT_OF: Mapping[str, str] = {
    **dict.fromkeys(("deepseek_vl", "deepseek_vl_hybrid", "glmasr", "idefics3", "janus"), "llama"),
    **dict.fromkeys(("llava", "llava_next", "llava_next_video", "omniasr"), "llama"),
    **dict.fromkeys(("perception_lm", "smolvlm", "video_llava", "vipllava", "voxtral"), "llama"),
    **dict.fromkeys(("idefics2", "mistral3"), "mistral"),
    **dict.fromkeys(("audioflamingo3", "fast_vlm", "got_ocr2", "internvl", "ovis2"), "qwen2"),
    **dict.fromkeys(("llava_onevision", "musicflamingo", "pp_chart2table"), "qwen2"),
    **dict.fromkeys(("qwen2_audio", "vibevoice", "vibevoice_asr", "video_llama_3"), "qwen2"),
    **dict.fromkeys(("fun_asr_nano", "lighton_ocr", "moss_transcribe_diarize"), "qwen3"),
    **dict.fromkeys(("qianfan_ocr", "qwen3_asr"), "qwen3"),
}
"""The language model of a whole model whose ``text_config`` does not say its type."""

_ALL: Mapping[str, Any] = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
    "rope_parameters": None,
    "rope_scaling": None,
    "partial_rotary_factor": None,
    "original_max_position_embeddings": None,
    "head_dim": None,
    "attention_bias": False,
    "mlp_bias": False,
    "quantization_config": None,
}
"""Keys of every type. ``head_dim`` is ``hidden_size / num_attention_heads`` where it is absent."""
_WINDOWS = {
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
}
_NULLABLE = frozenset(
    {
        *("rope_parameters", "rope_scaling", "partial_rotary_factor"),
        *("original_max_position_embeddings", "head_dim", "num_key_value_heads"),
        *("sliding_window", "layer_types", "mlp_only_layers", "quantization_config"),
    }
)
_TRAINING = {
    "attention_dropout": 0.0,
    "router_jitter_noise": 0.0,
}
_IGNORED = frozenset({"pretraining_tp", "output_router_logits", "router_aux_loss_coef"})
"""Another way to compute the same, what a forward gives back, and a loss that the option
``router_aux_loss`` weighs."""


def _keys(*, ignored: tuple[str, ...] = (), **own: Any) -> ConfigKeys:
    """Keys of one type: those of all, with its own and its own defaults."""
    return ConfigKeys(
        defaults={**_ALL, **own},
        nullable=_NULLABLE,
        training=_TRAINING,
        ignored=_IGNORED | set(ignored),
    )


KEYS: Mapping[str, ConfigKeys] = {
    "llama": _keys(
        vocab_size=32000,
        intermediate_size=11008,
        num_key_value_heads=None,
        max_position_embeddings=2048,
    ),
    "mistral": _keys(
        vocab_size=32000,
        intermediate_size=14336,
        num_key_value_heads=8,
        max_position_embeddings=131072,
        sliding_window=4096,
    ),
    "qwen2": _keys(
        vocab_size=151936,
        intermediate_size=22016,
        num_key_value_heads=32,
        max_position_embeddings=32768,
        **_WINDOWS,
    ),
    "qwen3": _keys(
        vocab_size=151936,
        intermediate_size=22016,
        num_key_value_heads=32,
        max_position_embeddings=32768,
        head_dim=128,
        **_WINDOWS,
    ),
    "mixtral": _keys(
        vocab_size=32000,
        intermediate_size=14336,
        num_key_value_heads=8,
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        rope_theta=1e6,
        sliding_window=None,
        num_local_experts=8,
        num_experts_per_tok=2,
    ),
    "qwen3_moe": _keys(
        vocab_size=151936,
        hidden_size=2048,
        num_hidden_layers=24,
        num_key_value_heads=4,
        max_position_embeddings=32768,
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=768,
        norm_topk_prob=False,
        decoder_sparse_step=1,
        mlp_only_layers=None,
        use_sliding_window=False,
        sliding_window=4096,
        # Of its dense layers, which cannot be here.
        ignored=("intermediate_size",),
    ),
}
