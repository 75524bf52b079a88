"""The decoder from megatron's local layers, for a machine without TransformerEngine.

Where TransformerEngine fuses a norm into the linear layer that follows, a norm of its own stands
before it; the keys of checkpoints are mapped to the fused names, so that both read each other's.
"""

from __future__ import annotations

from functools import partial

from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import (
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules

from mimo_core.building import PackedAttention, RMSNorm, local_moe_builder


def local_block(
    config: TransformerConfig, stage: int, *, even_tokens: bool
) -> TransformerBlockSubmodules:
    """The layers of one pipeline stage, and the norm after the last.

    Args:
        config: Of the model.
        stage: Of the pipeline.
        even_tokens: As :func:`~mimo_core.building.local_moe_builder` takes it.
    """
    count = get_num_layers_to_build(config, pp_rank=stage)
    return TransformerBlockSubmodules(
        layer_specs=[_layer(config, even_tokens)] * count, layer_norm=RMSNorm
    )


def _layer(config: TransformerConfig, even_tokens: bool) -> ModuleSpec:
    head_norm = RMSNorm if config.qk_layernorm else IdentityOp
    attention = ModuleSpec(
        module=SelfAttention,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=SelfAttentionSubmodules(
            linear_qkv=ColumnParallelLinear,
            core_attention=PackedAttention,
            linear_proj=RowParallelLinear,
            q_layernorm=head_norm,
            k_layernorm=head_norm,
        ),
    )
    fused = {"input_layernorm.": "self_attention.linear_qkv.layer_norm_"}
    if config.num_moe_experts:
        mlp = local_moe_builder(even_tokens=even_tokens)
    else:
        linears = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
        mlp = partial(MLP.as_mlp_submodule, submodules=linears)
        fused["pre_mlp_layernorm."] = "mlp.linear_fc1.layer_norm_"
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=RMSNorm,
            self_attention=attention,
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=RMSNorm,
            mlp=mlp,
            mlp_bda=get_bias_dropout_add,
            sharded_state_dict_keys_map=fused,
        ),
    )
