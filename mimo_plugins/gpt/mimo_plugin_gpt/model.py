"""The language model as megatron's ``GPTModel``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.spec_utils import ModuleSpec

from mimo_core import MimoError, ModuleConfig, Platform
from mimo_core.building import grouped_moe_builder, transformer_config
from mimo_plugin_gpt.description import embedding_rows, shape_of
from mimo_plugin_gpt.options import Options


def model_spec(
    module: ModuleConfig, groups: ProcessGroupCollection | None, platform: Platform
) -> ModuleSpec:
    """Spec of the whole language model; its pipeline stage follows from ``groups``."""
    shape = shape_of(module)
    config = model_config(module, platform)
    stage = 0 if groups is None else groups.pp.rank()
    return ModuleSpec(
        module=GPTModel,
        params={
            "config": config,
            "transformer_layer_spec": _block(
                config, stage, platform, even_tokens=not module.packing
            ),
            "vocab_size": embedding_rows(module),
            "max_sequence_length": module.train.sequence_length,
            "pre_process": stage == 0,
            "post_process": stage == module.grid.pp - 1,
            "pg_collection": groups,
            "position_embedding_type": "rope",
            "rotary_base": shape.rope_base,
            "rope_scaling": shape.rope_scaling != 1,
            "rope_scaling_factor": shape.rope_scaling,
            # The core scatters over tp, after it has put the encoders' rows in.
            "scatter_embedding_sequence_parallel": False,
            "parallel_output": True,
            "share_embeddings_and_output_weights": shape.tie_embeddings,
        },
    )


def model_config(module: ModuleConfig, platform: Platform) -> TransformerConfig:
    """The model's ``TransformerConfig`` on the module's grid.

    Raises:
        MimoError: the precision cannot be on this platform.
    """
    if platform.transformer_engine and module.grid.cp > 1 and module.precision == "fp32":
        raise MimoError(
            f"modules.{module.name}: cp {module.grid.cp} needs bf16 on a GPU: TransformerEngine "
            "has no kernel of context parallelism for fp32; set precision: bf16, or "
            f"modules.{module.name}.grid.cp to 1",
            code="recipe.conflict",
            module=module.name,
            keys=("precision", "grid.cp"),
            cp=module.grid.cp,
        )
    defaults: dict[str, Any] = {}
    if shape_of(module).experts:
        defaults = {
            "moe_router_dtype": "fp32",
            # Of TransformerEngine's layers; without it, one expert after another.
            "moe_grouped_gemm": platform.transformer_engine,
            "moe_permute_fusion": platform.transformer_engine,
        }
    fields = architecture(module, platform)
    return transformer_config(module, sequence_parallel=True, **fields, **defaults)


def architecture(module: ModuleConfig, platform: Platform) -> dict[str, Any]:
    """Fields of ``TransformerConfig`` that are the model itself; ``owned`` names them."""
    options: Options = module.options
    shape = options.shape
    fields: dict[str, Any] = {
        "num_layers": shape.layers,
        "hidden_size": shape.hidden_size,
        "ffn_hidden_size": shape.ffn_hidden_size,
        "gated_linear_unit": True,
        "activation_func": F.silu,
        "add_bias_linear": False,
        "add_qkv_bias": shape.qkv_bias,
        "qk_layernorm": shape.qk_norm,
        "normalization": "RMSNorm",
        "layernorm_epsilon": shape.norm_epsilon,
        "hidden_dropout": options.dropout,
        "attention_dropout": options.dropout,
        "transformer_impl": "transformer_engine" if platform.transformer_engine else "local",
        "num_attention_heads": shape.attention_heads,
        "num_query_groups": shape.kv_heads,
        "kv_channels": shape.head_dim,
    }
    if shape.experts:
        fields |= {
            "num_moe_experts": shape.experts,
            "moe_router_topk": shape.experts_per_token,
            "moe_ffn_hidden_size": shape.expert_ffn_hidden_size,
            "moe_router_score_function": "softmax",
            # Over the chosen experts, which then have 1 together; or over all, before the choice.
            "moe_router_pre_softmax": not shape.router_normalized,
            "moe_router_load_balancing_type": "aux_loss" if options.router_aux_loss else "none",
            "moe_aux_loss_coeff": options.router_aux_loss,
        }
    return fields


def _block(config: TransformerConfig, stage: int, platform: Platform, *, even_tokens: bool) -> Any:
    if platform.transformer_engine:
        from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec

        block = get_gpt_decoder_block_spec(config, use_transformer_engine=True, pp_rank=stage)
        if config.num_moe_experts and config.moe_grouped_gemm:
            experts = grouped_moe_builder(even_tokens=even_tokens)
            block.layer_specs = [
                replace(layer, submodules=replace(layer.submodules, mlp=experts))
                for layer in block.layer_specs
            ]
        return block
    from mimo_plugin_gpt.local_layers import local_block

    return local_block(config, stage, even_tokens=even_tokens)
