"""Fields of megatron's ``TransformerConfig`` that a recipe may not set beside the options."""

from __future__ import annotations

FROM_OPTIONS = frozenset(
    {
        "num_layers",
        "hidden_size",
        "ffn_hidden_size",
        "gated_linear_unit",
        "activation_func",
        "add_bias_linear",
        "add_qkv_bias",
        "qk_layernorm",
        "normalization",
        "layernorm_epsilon",
        "hidden_dropout",
        "attention_dropout",
        "transformer_impl",
        "num_attention_heads",
        "num_query_groups",
        "kv_channels",
        "num_moe_experts",
        "moe_router_topk",
        "moe_ffn_hidden_size",
        "moe_router_score_function",
        "moe_router_pre_softmax",
        "moe_router_load_balancing_type",
        "moe_aux_loss_coeff",
    }
)
"""What ``model.architecture`` sets."""

_FIXED = frozenset(
    {
        "attention_output_gate",
        "experimental_attention_variant",
        "hetereogenous_dist_checkpoint",
        "heterogeneous_block_specs",
        "linear_attention_freq",
        "moe_latent_size",
        "moe_layer_freq",
        "moe_router_enable_expert_bias",
        "moe_shared_expert_gate",
        "moe_shared_expert_intermediate_size",
        "mtp_num_layers",
        "multi_latent_attention",
        "qk_l2_norm",
        "rotary_interleaved",
        "softmax_type",
    }
)
"""Would give the layers other parameters than the description counts, other keys in checkpoints
than the weight map tells, or weights another meaning than in files."""

_STAGES = frozenset(
    {
        "num_layers_in_first_pipeline_stage",
        "num_layers_in_last_pipeline_stage",
        "pipeline_model_parallel_layout",
    }
)
"""Would put other layers on a pipeline stage than the description says."""

FIELDS = FROM_OPTIONS | _FIXED | _STAGES
