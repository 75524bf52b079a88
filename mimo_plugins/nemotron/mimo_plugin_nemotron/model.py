"""The language model as megatron's ``HybridModel``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from megatron.core.activations import squared_relu
from megatron.core.models.hybrid.hybrid_model import HybridModel
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.spec_utils import ModuleSpec

from mimo_core import MimoError, ModuleConfig, Platform
from mimo_core.building import grouped_moe_builder, transformer_config
from mimo_plugin_nemotron import kernels
from mimo_plugin_nemotron.description import embedding_rows
from mimo_plugin_nemotron.options import Options


def model_spec(
    module: ModuleConfig, groups: ProcessGroupCollection | None, platform: Platform
) -> ModuleSpec:
    """Spec of the whole language model; its pipeline stage follows from ``groups``."""
    options: Options = module.options
    if "M" in options.pattern:
        kernels.provide(platform)
    return ModuleSpec(
        module=HybridModel,
        params={
            "config": hybrid_config(module, platform),
            "hybrid_stack_spec": _stack_spec(module, platform),
            "vocab_size": embedding_rows(module),
            "max_sequence_length": module.train.sequence_length,
            "hybrid_layer_pattern": options.pattern,
            "pre_process": groups is None or groups.pp.rank() == 0,
            "post_process": groups is None or groups.pp.rank() == groups.pp.size() - 1,
            "pg_collection": groups,
            "position_embedding_type": "none",
            # The core scatters over tp, after it has put the encoders' rows in.
            "scatter_embedding_sequence_parallel": False,
            "parallel_output": True,
            "share_embeddings_and_output_weights": options.tie_embeddings,
        },
    )


def hybrid_config(module: ModuleConfig, platform: Platform) -> TransformerConfig:
    """The model's ``TransformerConfig`` on the module's grid.

    Raises:
        MimoError: what the recipe wants recomputed, or the precision, cannot be on this platform.
    """
    defaults: dict[str, Any] = {}
    if "E" in module.options.pattern:
        defaults = {
            "moe_router_dtype": "fp32",
            # Of TransformerEngine's layers; without it, one expert after another.
            "moe_grouped_gemm": platform.transformer_engine,
            "moe_permute_fusion": platform.transformer_engine,
            # Its kernel takes no float64.
            "moe_router_fusion": platform.transformer_engine
            and module.megatron.get("moe_router_dtype") != "fp64",
            "use_fused_weighted_squared_relu": platform.transformer_engine,
        }
    fields = architecture(module, platform)
    config = transformer_config(module, sequence_parallel=True, **fields, **defaults)
    shared = module.grid.cp > 1 and "*" in module.options.pattern
    if platform.transformer_engine and shared and module.precision == "fp32":
        raise MimoError(
            f"modules.{module.name}: attention (* in the pattern) with cp {module.grid.cp} needs "
            "bf16 on a GPU: TransformerEngine has no kernel of context parallelism for fp32; set "
            f"precision: bf16, or modules.{module.name}.grid.cp to 1",
            code="recipe.conflict",
            module=module.name,
            keys=("precision", "grid.cp"),
            cp=module.grid.cp,
        )
    return config


def architecture(module: ModuleConfig, platform: Platform) -> dict[str, Any]:
    """Fields of ``TransformerConfig`` that are the model itself; ``owned`` names them."""
    options: Options = module.options
    fields: dict[str, Any] = {
        "num_layers": len(options.pattern),
        "is_hybrid_model": True,
        "hidden_size": options.hidden_size,
        "ffn_hidden_size": options.mlp_width,
        "activation_func": squared_relu,
        "add_bias_linear": False,
        "normalization": "RMSNorm",
        "layernorm_epsilon": options.norm_epsilon,
        "hidden_dropout": options.dropout,
        "attention_dropout": options.dropout,
        "transformer_impl": "transformer_engine" if platform.transformer_engine else "local",
        # Without attention the config still wants a number of heads that tp divides.
        "num_attention_heads": module.grid.tp,
    }
    if "*" in options.pattern:
        fields |= {
            "num_attention_heads": options.attention_heads,
            "num_query_groups": options.kv_head_count,
            "kv_channels": options.attention_head_dim,
        }
    if "M" in options.pattern:
        fields |= {
            "mamba_num_heads": options.mamba_head_count,
            "mamba_head_dim": options.mamba_head_dim,
            "mamba_state_dim": options.mamba_state,
            "mamba_num_groups": options.mamba_groups,
        }
    if "E" in options.pattern:
        fields |= _expert_architecture(options)
    return fields


def _expert_architecture(options: Options) -> dict[str, Any]:
    return {
        "num_moe_experts": options.experts,
        "moe_router_topk": options.experts_per_token,
        "moe_ffn_hidden_size": options.expert_width,
        "moe_shared_expert_intermediate_size": options.shared_expert_ffn_hidden_size or None,
        "moe_router_score_function": options.router_score,
        # Over all experts, before the choice: over one chosen expert it would be 1 whatever the
        # router says, and megatron documents the scaling for this order alone.
        "moe_router_pre_softmax": options.router_score == "softmax",
        "moe_router_enable_expert_bias": options.router_bias,
        "moe_router_topk_scaling_factor": options.routed_scaling,
        "moe_router_load_balancing_type": "aux_loss" if options.router_aux_loss else "none",
        "moe_aux_loss_coeff": options.router_aux_loss,
    }


def _stack_spec(module: ModuleConfig, platform: Platform) -> ModuleSpec:
    even_tokens = not module.packing
    if platform.transformer_engine:
        from megatron.core.models.hybrid.hybrid_layer_specs import hybrid_stack_spec

        layers = hybrid_stack_spec.submodules
        experts = replace(
            layers.moe_layer.submodules, mlp=grouped_moe_builder(even_tokens=even_tokens)
        )
        moe_layer = replace(layers.moe_layer, submodules=experts)
        return replace(hybrid_stack_spec, submodules=replace(layers, moe_layer=moe_layer))
    from mimo_plugin_nemotron.local_layers import local_stack_spec

    return local_stack_spec(even_tokens=even_tokens)
