"""Modules for the tests; imports no torch."""

from __future__ import annotations

from typing import Any

from mimo_plugin_gpt.options import Options

from mimo_core.contract import Grid, ModuleConfig, TrainingConfig

SEQUENCE = 16
ROWS = 80

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "attention_heads": 4,
    "kv_heads": 2,
    "ffn_hidden_size": 48,
    "norm_epsilon": 1e-4,
    "vocabulary_size": ROWS,
}
EXPERTS: dict[str, Any] = {
    **{name: value for name, value in SMALL.items() if name != "ffn_hidden_size"},
    "experts": 4,
    "expert_ffn_hidden_size": 24,
}
FAMILIES: dict[str, dict[str, Any]] = {
    # Factor and base such that at 16 positions every branch of the scaling shows.
    "llama": {**SMALL, "rope_base": 1e8, "rope_scaling": 8.0, "head_dim": 24},
    "qwen2": {**SMALL, "qkv_bias": True, "tie_embeddings": True},
    "qwen3": {**SMALL, "qk_norm": True, "head_dim": 12},
    "mixtral": {**EXPERTS, "rope_base": 1e3},
    "qwen3_moe": {**EXPERTS, "qk_norm": True, "experts_per_token": 3, "router_normalized": False},
}
"""Options by the model type of transformers that has such weights; no value is its default."""


def language_module(
    grid: Grid | None = None, megatron: dict[str, Any] | None = None, **options: Any
) -> ModuleConfig:
    """A language model of the given options."""
    train = TrainingConfig(
        iterations=1,
        micro_batch_size=2,
        global_batch_size=2,
        sequence_length=SEQUENCE,
        learning_rate=1e-3,
    )
    return ModuleConfig(
        name="language",
        plugin="gpt",
        grid=grid or Grid(),
        train=train,
        options=Options(**options),
        vocabulary_size=ROWS - 3,
        megatron=megatron or {},
    )
