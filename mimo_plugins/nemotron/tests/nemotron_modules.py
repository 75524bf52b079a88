"""Modules for the tests; imports no torch."""

from __future__ import annotations

from typing import Any

from mimo_plugin_nemotron.options import Options

from mimo_core.contract import Grid, ModuleConfig, TrainingConfig

VOCABULARY = 200
SEQUENCE = 12
BATCH = 4

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "kv_heads": 2,
    "mamba_head_dim": 8,
    "mamba_state": 4,
    "ffn_hidden_size": 48,
    "expert_ffn_hidden_size": 24,
    "shared_expert_ffn_hidden_size": 16,
    "vocabulary_multiple": 16,
}


def language_module(
    grid: Grid | None = None, megatron: dict[str, Any] | None = None, **options: Any
) -> ModuleConfig:
    """A small language model of every layer type."""
    train = TrainingConfig(
        iterations=1,
        micro_batch_size=BATCH,
        global_batch_size=BATCH,
        sequence_length=SEQUENCE,
        learning_rate=1e-3,
    )
    return ModuleConfig(
        name="language",
        plugin="nemotron",
        grid=grid or Grid(),
        train=train,
        options=Options(**{"pattern": "M*-E", **SMALL, **options}),
        vocabulary_size=VOCABULARY,
        megatron=megatron or {},
    )
