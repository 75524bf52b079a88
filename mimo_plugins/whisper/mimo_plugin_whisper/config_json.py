"""``config.json`` of Whisper, compared with the options.

Facts of transformers 5; a test compares them with its class, so that a key it adds is seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mimo_core import ConfigKeys
from mimo_plugin_whisper.options import Options

BELOW = "audio_config"
"""Where a whole model has that of its encoder."""
KIND = "whisper"

KEYS = ConfigKeys(
    defaults={
        "d_model": 384,
        "encoder_layers": 4,
        "encoder_attention_heads": 6,
        "encoder_ffn_dim": 1536,
        "num_mel_bins": 80,
        "max_source_positions": 1500,
        "activation_function": "gelu",
        "scale_embedding": False,
        "quantization_config": None,
    },
    training={
        **dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), 0.0),
        "encoder_layerdrop": 0.0,
        "apply_spec_augment": False,
    },
    ignored=frozenset(
        {
            # Of the decoder, and of heads on it.
            *("decoder_layers", "decoder_attention_heads", "decoder_ffn_dim", "decoder_layerdrop"),
            *("vocab_size", "max_target_positions", "tie_word_embeddings", "median_filter_width"),
            *("use_weighted_layer_sum", "classifier_proj_size", "alignment_heads"),
            "num_hidden_layers",
            # Of ``apply_spec_augment``.
            *("mask_time_prob", "mask_time_length", "mask_time_min_masks"),
            *("mask_feature_prob", "mask_feature_length", "mask_feature_min_masks"),
        }
    ),
)


def mistakes(whole: Mapping[str, Any], options: Options) -> Iterator[str]:
    """Where weights with this file compute something else than the options say, each to be read
    after the words "config.json"."""
    said, at = _part(whole)
    if said.get("model_type") != KIND:
        yield f"says {at}model_type {said.get('model_type')!r}; read is {KIND}"
        return
    due = {
        "d_model": (options.tower_width, "set the option hidden_size"),
        "encoder_layers": (options.tower_layers, "set the option layers"),
        "encoder_attention_heads": (options.tower_heads, "set the option heads"),
        "encoder_ffn_dim": (options.tower_ffn_width, "set the option ffn_hidden_size"),
        "num_mel_bins": (options.mel_bins, "set the option mel_bins"),
        "max_source_positions": (options.max_positions, "set the option max_positions"),
        "activation_function": ("gelu", "the tower has no other"),
        "scale_embedding": (False, "the tower does not scale embedded frames"),
        "quantization_config": (None, "weights are not quantized here"),
    }
    yield from KEYS.unlike(said, due, at)


def notes(whole: Mapping[str, Any]) -> Iterator[str]:
    """What nothing reads of a file, each to be read after its name."""
    said, at = _part(whole)
    if said.get("model_type") == KIND:
        yield from KEYS.notes(said, at)


def _part(whole: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """What a file says of the encoder, and where."""
    below = whole.get(BELOW)
    return (below, f"{BELOW}.") if isinstance(below, dict) else (whole, "")
