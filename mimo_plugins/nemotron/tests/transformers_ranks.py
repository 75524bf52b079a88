"""The model against transformers' ``NemotronHForCausalLM``; only here both are imported."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from mimo_plugin_nemotron.plugin import param_mappings
from nemotron_ranks import Built, positions
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import NemotronHConfig, NemotronHForCausalLM

from mimo_core.contract import Grid
from mimo_core.testing.weights import gradients_as_in_files, put_gradients, read_parts, unnamed

BATCH = 2
CHUNK = 16
"""Chunk of transformers' scan; the plugin's is 64."""


def one_rank(platform: Any, length: int, options: dict[str, Any]) -> dict[str, Any]:
    """Differences of the same weights' logits and gradients on sequences of ``length``.

    Returns:
        ``logits``: largest difference, relative to the largest logit; ``gradients``: the same of
        each parameter by its name in a file; ``unnamed``: what the weight map and the model do not
        both have.
    """
    # transformers looked for mamba_ssm when it was imported above. From its first Mamba2 layer on,
    # the plugin answers to that name: imported later, transformers would scan with our own code.
    assert "mamba_ssm" not in sys.modules, "transformers must scan with its own torch code"
    built = Built(platform, Grid(), **options)
    weights = param_mappings(built.module)
    parts: Any = {"language": built.model}
    if missing := unnamed(built.module, weights, parts, built.groups):
        return {"unnamed": missing}
    theirs = _transformers_model(built)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)  # type: ignore[operator]
        read_parts(built.module, weights, parts, built.groups, Path(folder))
        ids = torch.randint(0, theirs.vocab_size, (BATCH, length))
        expected = theirs(input_ids=ids, use_cache=False).logits
        logits = built.model(ids, positions(ids), None)
        # Every logit counts, each with a factor of its own.
        factors = torch.randn_like(expected)
        for output in (expected, logits):
            (output * factors).sum().backward()
        put_gradients([theirs])
        theirs.save_pretrained(folder)  # type: ignore[operator]
        due = load_file(Path(folder) / "model.safetensors")
    gradients = gradients_as_in_files(built.module, weights, parts, built.groups)
    return {
        "unnamed": [],
        "logits": _difference(logits, expected),
        "gradients": {
            name: _difference(gradient, due[name])
            for name, gradient in gradients.items()
            if not name.endswith("e_score_correction_bias")  # a buffer
        },
    }


def _transformers_model(built: Built) -> nn.Module:
    """Of the same sizes; every parameter random, none at a value that hides its use."""
    options = built.module.options
    config = NemotronHConfig(
        vocab_size=built.model.embedding.word_embeddings.weight.shape[0],
        hidden_size=options.hidden_size,
        hybrid_override_pattern=options.pattern,
        layer_norm_epsilon=options.norm_epsilon,
        num_attention_heads=options.attention_heads,
        num_key_value_heads=options.kv_head_count,
        head_dim=options.attention_head_dim,
        intermediate_size=options.mlp_width,
        mamba_num_heads=options.mamba_head_count,
        mamba_head_dim=options.mamba_head_dim,
        ssm_state_size=options.mamba_state,
        n_groups=options.mamba_groups,
        chunk_size=CHUNK,
        # transformers bounds the step sizes by this from below; megatron does not bound them.
        time_step_min=1e-30,
        n_routed_experts=options.experts,
        num_experts_per_tok=options.experts_per_token,
        moe_intermediate_size=options.expert_width,
        moe_shared_expert_intermediate_size=options.shared_expert_ffn_hidden_size,
        routed_scaling_factor=options.routed_scaling,
        norm_topk_prob=True,
        n_group=1,
        topk_group=1,
    )
    model: nn.Module = NemotronHForCausalLM._from_config(
        config, attn_implementation="eager", experts_implementation="eager"
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("dt_bias"):
                parameter.uniform_(-8, 1)
            elif parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
            else:
                # Rows of the embedding are so small that the norms' epsilon shows.
                parameter.normal_(std=0.01 if "embeddings" in name else 0.2)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.normal_(std=0.1)
    return model


def _difference(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()
