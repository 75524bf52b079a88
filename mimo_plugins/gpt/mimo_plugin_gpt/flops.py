"""Floating-point operations of the model's forward, without torch."""

from __future__ import annotations

from collections.abc import Sequence

from mimo_core import FlopsEstimate, ModuleConfig
from mimo_plugin_gpt.description import attention_columns, embedding_rows, shape_of


def forward_flops(module: ModuleConfig, lengths: Sequence[int]) -> tuple[FlopsEstimate]:
    """Two for each weight of a matrix that a position meets (of experts, those it is sent to), and
    causal attention: each position looks at itself and all those before it (a ``window_size`` that
    the recipe sets under ``megatron`` is not seen)."""
    shape = shape_of(module)
    hidden = shape.hidden_size
    positions = sum(lengths)
    pairs = sum(length * (length + 1) // 2 for length in lengths)
    layer = hidden * attention_columns(shape)
    if shape.experts:
        met = shape.experts_per_token * shape.expert_ffn_hidden_size
        layer += hidden * shape.experts + 3 * hidden * met
    else:
        layer += 3 * hidden * shape.ffn_hidden_size
    output = hidden * embedding_rows(module)
    return (
        FlopsEstimate(
            component="language",
            weight_matmul=2.0 * positions * (shape.layers * layer + output),
            # Scores, and values weighted by them.
            activation_matmul=2.0 * pairs * shape.layers * 2 * shape.query_width,
        ),
    )
