"""The model of ``recipes/judged.yaml`` in transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.models.nemotron_h_omni.configuration_nemotron_h_omni import (
    NemotronH_Omni_Reasoning_V3_Config,
)
from transformers.models.nemotron_h_omni.modeling_nemotron_h_omni import (
    NemotronH_Omni_Reasoning_V3,
)

PLACEHOLDER = 258
"""Id of a picture's positions: 256 bytes, padding, end of text, and then this."""
PLAIN = {"attn_implementation": "eager", "experts_implementation": "eager"}

TEXT: dict[str, Any] = {
    "model_type": "nemotron_h",
    "vocab_size": 272,
    "hidden_size": 32,
    "hybrid_override_pattern": "M*-E",
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "ssm_state_size": 4,
    "n_groups": 2,
    "chunk_size": 16,
    # transformers bounds the step sizes by this from below; megatron does not bound them.
    "time_step_min": 1e-30,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "moe_shared_expert_intermediate_size": 16,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
    "n_group": 1,
    "topk_group": 1,
}
VISION: dict[str, Any] = {
    "model_type": "radio",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "patch_size": 4,
    "max_img_size": 32,
    "num_cls_tokens": 1,
    "num_registers": 2,
    "summary_idxs": [0],
    "video_temporal_patch_size": 2,
}


def save_random(directory: Path) -> None:
    """Write a model whose weights are all random, none at a value that hides its use."""
    config = NemotronH_Omni_Reasoning_V3_Config(
        text_config=TEXT,
        vision_config=VISION,
        vision_hidden_size=32,
        projector_hidden_size=48,
        image_token_id=PLACEHOLDER,
    )
    torch.manual_seed(0)
    model = NemotronH_Omni_Reasoning_V3(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("dt_bias"):
                parameter.uniform_(-4, 1)
            elif "lambda1" in name:
                parameter.fill_(1)  # LayerScale, which neither released files nor Megatron have
            elif parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
            else:
                parameter.normal_(std=0.2)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.normal_(std=0.1)
    model.save_pretrained(directory)


def load(directory: Path) -> nn.Module:
    """The model in float32, by the slowest and plainest code that transformers has."""
    model: nn.Module = NemotronH_Omni_Reasoning_V3.from_pretrained(
        directory, dtype=torch.float32, **PLAIN
    )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lambda1" not in name)
    return model.train()
