"""Fields of megatron's ``TransformerConfig`` that a recipe may not set beside the options."""

from __future__ import annotations

FROM_OPTIONS = frozenset(
    {
        "num_layers",
        "is_hybrid_model",
        "hidden_size",
        "ffn_hidden_size",
        "activation_func",
        "add_bias_linear",
        "normalization",
        "layernorm_epsilon",
        "hidden_dropout",
        "attention_dropout",
        "transformer_impl",
        "num_attention_heads",
        "num_query_groups",
        "kv_channels",
        "mamba_num_heads",
        "mamba_head_dim",
        "mamba_state_dim",
        "mamba_num_groups",
        "num_moe_experts",
        "moe_router_topk",
        "moe_ffn_hidden_size",
        "moe_shared_expert_intermediate_size",
        "moe_router_score_function",
        "moe_router_pre_softmax",
        "moe_router_enable_expert_bias",
        "moe_router_topk_scaling_factor",
        "moe_router_load_balancing_type",
        "moe_aux_loss_coeff",
    }
)
"""What ``model.architecture`` sets."""

_FIXED = frozenset(
    {
        "add_qkv_bias",
        "attention_output_gate",
        "gated_linear_unit",
        "moe_latent_size",
        "moe_shared_expert_gate",
        "mtp_num_layers",
        "multi_latent_attention",
        "qk_layernorm",
    }
)
"""Would give the layers other parameters than the description counts."""

_STAGES = frozenset(
    {
        "num_layers_in_first_pipeline_stage",
        "num_layers_in_last_pipeline_stage",
        "pipeline_model_parallel_layout",
    }
)
"""Would put other layers on a pipeline stage than the description says."""

FIELDS = FROM_OPTIONS | _FIXED | _STAGES
