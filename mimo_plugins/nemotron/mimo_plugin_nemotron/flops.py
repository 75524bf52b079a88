"""Floating-point operations of the model's forward, without torch."""

from __future__ import annotations

from collections.abc import Sequence

from mimo_core import FlopsEstimate, ModuleConfig
from mimo_plugin_nemotron.description import attention_columns, embedding_rows, mamba_widths
from mimo_plugin_nemotron.options import CONVOLUTION_WIDTH, Options

SCAN = 7
"""A Mamba2 scan's, for each position, feature and state. The recurrence itself takes 5 (state times
decay, plus input times B; times C, summed up); made by chunks it takes more, the longer they are. 7
is what Megatron's throughput figure counts (``mamba_layer_flops`` in ``megatron/training/
training.py`` of 0.19.2), so that figures compare."""


def forward_flops(module: ModuleConfig, lengths: Sequence[int]) -> tuple[FlopsEstimate]:
    """Two for each weight of a matrix that a position meets (of experts, those it is sent to, and
    the shared one), causal attention (each position looks at itself and all those before it; a
    ``window_size`` that the recipe sets under ``megatron`` is not seen), and the Mamba2 scan."""
    options: Options = module.options
    positions = sum(lengths)
    pairs = sum(length * (length + 1) // 2 for length in lengths)
    weights = sum(_matrices(options, kind) for kind in options.pattern)
    output = options.hidden_size * embedding_rows(module)
    # Scores, and values weighted by them.
    attention = 4.0 * pairs * options.attention_heads * options.attention_head_dim
    inner, _, _ = mamba_widths(options)
    scan = float(SCAN) * positions * inner * options.mamba_state
    return (
        FlopsEstimate(
            component="language",
            weight_matmul=2.0 * positions * (weights + output),
            activation_matmul=options.pattern.count("*") * attention
            + options.pattern.count("M") * scan,
        ),
    )


def _matrices(options: Options, kind: str) -> int:
    """Weights of one layer that a position meets."""
    hidden = options.hidden_size
    if kind == "M":
        inner, channels, projected = mamba_widths(options)
        return hidden * (projected + inner) + channels * CONVOLUTION_WIDTH
    if kind == "*":
        return hidden * attention_columns(options)
    if kind == "-":
        return 2 * hidden * options.mlp_width
    met = options.experts_per_token * options.expert_width + options.shared_expert_ffn_hidden_size
    return hidden * options.experts + 2 * hidden * met
