"""Files that differ in one key, judged here and read by transformers; only ranks import this."""

from __future__ import annotations

import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from mimo_plugin_nemotron.config_json import KEYS
from mimo_plugin_nemotron.plugin import param_mappings
from nemotron_modules import SMALL
from nemotron_ranks import Built, positions
from transformers import NemotronHConfig, NemotronHForCausalLM

from mimo_core.contract import Grid
from mimo_core.testing.config_cases import (
    ABSENT,
    cases,
    fill,
    other_defaults,
    outcomes,
    unknown_fields,
)
from mimo_core.testing.weights import read_parts

OPTIONS: dict[str, Any] = {
    **SMALL,
    "pattern": "M*-E",
    "head_dim": 12,
    "mamba_heads": 6,
    "experts": 6,
    "experts_per_token": 2,
    "router_bias": True,
    "routed_scaling": 2.5,
    "vocabulary_size": 208,
}
ROWS = OPTIONS["vocabulary_size"]
VALUES: dict[str, list[Any]] = {
    "layers_block_type": [["linear_attention", "full_attention", "mlp"]],
    "mlp_hidden_act": ["relu", "silu"],
    "mamba_hidden_act": ["gelu"],
    "sliding_window": [4],
    "moe_latent_size": [8],
    "num_experts_per_tok": [1, 3],
    "n_group": [2],
    "topk_group": [2],
    "time_step_limit": [[0.0, 0.5]],
    "layer_norm_epsilon": [1e-6, 1e-3],
    "num_nextn_predict_layers": [1],
}
OTHERS: dict[str, dict[str, Any]] = {
    "model_type=other": {"model_type": "nemotron"},
    "hybrid_override_pattern=same": {
        "layers_block_type": ABSENT,
        "hybrid_override_pattern": "M*-E",
    },
    "hybrid_override_pattern=other": {
        "layers_block_type": ABSENT,
        "hybrid_override_pattern": "M*M-E",
    },
    "hybrid_override_pattern=unread": {"hybrid_override_pattern": "MMMM"},
    "n_groups=earlier": {"n_groups": ABSENT, "mamba_n_groups": 2},
    "n_groups=earlier other": {"n_groups": ABSENT, "mamba_n_groups": 1},
    "conv_kernel=earlier": {"conv_kernel": ABSENT, "mamba_d_conv": 3},
}


def one_rank(platform: Any) -> dict[str, Any]:
    """What became of each file, and what the table lacks."""
    # See transformers_ranks.
    assert "mamba_ssm" not in sys.modules, "transformers must scan with its own torch code"
    built = Built(platform, Grid(), **OPTIONS)
    weights, options = param_mappings(built.module), built.module.options
    ids = torch.arange(2 * 24).view(2, 24) * 3 % ROWS

    def reference(config: dict[str, Any]) -> Any:
        model = NemotronHForCausalLM._from_config(
            NemotronHConfig.from_dict(dict(config)),
            attn_implementation="eager",
            experts_implementation="eager",
        ).eval()
        fill(model)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name.endswith("e_score_correction_bias"):
                    buffer.copy_(torch.linspace(-0.1, 0.1, len(buffer)))
        return model

    def theirs(config: dict[str, Any]) -> Any:
        with torch.no_grad():
            return reference(config)(input_ids=ids, use_cache=False, return_dict=True).logits

    sizes = NemotronHConfig(
        vocab_size=ROWS,
        hidden_size=options.hidden_size,
        hybrid_override_pattern=options.pattern,
        num_attention_heads=options.attention_heads,
        num_key_value_heads=options.kv_head_count,
        head_dim=options.attention_head_dim,
        intermediate_size=options.mlp_width,
        mamba_num_heads=options.mamba_head_count,
        mamba_head_dim=options.mamba_head_dim,
        ssm_state_size=options.mamba_state,
        n_groups=options.mamba_groups,
        n_routed_experts=options.experts,
        moe_intermediate_size=options.expert_width,
        moe_shared_expert_intermediate_size=options.shared_expert_ffn_hidden_size,
        routed_scaling_factor=options.routed_scaling,
    )
    base = json.loads(sizes.to_json_string(False)) | {"time_step_limit": [0.0, math.inf]}
    with tempfile.TemporaryDirectory() as folder:
        reference(base).save_pretrained(folder)
        (Path(folder) / "config.json").write_text(json.dumps(base))
        parts: Any = {"language": built.model}
        read_parts(built.module, weights, parts, built.groups, Path(folder))
    with torch.no_grad():
        ours = built.model.eval()(ids, positions(ids), None)
    assert weights.config_mistakes is not None
    exported = dict(weights.exported_config)
    files = [("nothing", "", base), ("exported", "", exported), *cases(base, VALUES, OTHERS)]
    return {
        "cases": outcomes(files, weights.config_mistakes, theirs, ours),
        "unknown": unknown_fields(base, KEYS),
        "defaults": other_defaults(NemotronHConfig, KEYS),
    }
