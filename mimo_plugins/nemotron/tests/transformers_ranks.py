"""The model against transformers' ``NemotronHForCausalLM``; only here both are imported."""

from __future__ import annotations

import sys
from typing import Any

import torch
from nemotron_ranks import Built, positions
from torch import Tensor, nn
from transformers import NemotronHConfig, NemotronHForCausalLM

from mimo_core.contract import Grid

BATCH = 2
CHUNK = 16
"""Chunk of transformers' scan; the plugin's is 64."""

RENAMED = {
    "M": {"mixer.conv1d.": "mixer.conv1d_"},
    "*": {"norm.": "input_layernorm.", "mixer.o_proj.": "self_attention.linear_proj."},
    "-": {
        "norm.": "pre_mlp_layernorm.",
        "mixer.up_proj.": "mlp.linear_fc1.",
        "mixer.down_proj.": "mlp.linear_fc2.",
    },
    "E": {
        "norm.": "pre_mlp_layernorm.",
        "mixer.gate.": "mlp.router.",
        "mixer.shared_experts.up_proj.": "mlp.shared_experts.linear_fc1.",
        "mixer.shared_experts.down_proj.": "mlp.shared_experts.linear_fc2.",
    },
}
"""Beginnings of a layer's names in transformers and in megatron, where only they differ."""


def one_rank(platform: Any, length: int, options: dict[str, Any]) -> dict[str, Any]:
    """Differences of the same weights' logits and gradients on sequences of ``length``.

    Returns:
        ``logits``: largest difference, relative to the largest logit; ``gradients``: the same of
        each parameter; ``unknown``: names of parameters that only one of both has.
    """
    # transformers looked for mamba_ssm when it was imported above. From its first Mamba2 layer on,
    # the plugin answers to that name: imported later, transformers would scan with our own code.
    assert "mamba_ssm" not in sys.modules, "transformers must scan with its own torch code"
    built = Built(platform, Grid(), **options)
    theirs = _transformers_model(built)
    parameters = dict(built.model.named_parameters())
    weights = _converted(dict(theirs.named_parameters()), built)
    if unknown := sorted(weights.keys() ^ parameters.keys()):
        return {"unknown": unknown}
    with torch.no_grad():
        for name, parameter in parameters.items():
            assert parameter.shape == weights[name].shape, name
            parameter.copy_(weights[name])

    ids = torch.randint(0, theirs.vocab_size, (BATCH, length))
    expected = theirs(input_ids=ids, use_cache=False).logits
    logits = built.model(ids, positions(ids), None)
    # Every logit counts, each with a factor of its own.
    factors = torch.randn_like(expected)
    for output in (expected, logits):
        (output * factors).sum().backward()
    gradients = _converted({name: _gradient(p) for name, p in theirs.named_parameters()}, built)
    return {
        "unknown": [],
        "logits": _difference(logits, expected),
        "gradients": {
            name: _difference(_gradient(parameter), gradients[name])
            for name, parameter in parameters.items()
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
    return model


def _converted(theirs: dict[str, Tensor], built: Built) -> dict[str, Tensor]:
    """transformers' parameters, or their gradients, by megatron's names and in its layout."""
    ours = {
        "embedding.word_embeddings.weight": theirs["model.embeddings.weight"],
        "decoder.final_norm.weight": theirs["model.norm_f.weight"],
        "output_layer.weight": theirs["lm_head.weight"],
    }
    for number, symbol in enumerate(built.module.options.pattern):
        before = f"model.layers.{number}."
        layer = {n.removeprefix(before): t for n, t in theirs.items() if n.startswith(before)}
        if symbol == "*":
            query, key, value = (layer.pop(f"mixer.{part}_proj.weight") for part in "qkv")
            groups = built.module.options.kv_head_count
            grouped = [t.unflatten(0, (groups, -1)) for t in (query, key, value)]
            layer["self_attention.linear_qkv.weight"] = torch.cat(grouped, dim=1).flatten(0, 1)
        if symbol == "E":
            for part, linear in {"up": "linear_fc1", "down": "linear_fc2"}.items():
                for expert, weight in enumerate(layer.pop(f"mixer.experts.{part}_proj")):
                    layer[f"mlp.experts.local_experts.{expert}.{linear}.weight"] = weight
        for name, tensor in layer.items():
            ours[f"decoder.layers.{number}.{_renamed(name, symbol)}"] = tensor
    return ours


def _renamed(name: str, symbol: str) -> str:
    for theirs, ours in RENAMED[symbol].items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _difference(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()
