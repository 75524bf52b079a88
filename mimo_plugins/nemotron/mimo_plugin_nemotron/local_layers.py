"""The hybrid stack from megatron's local layers, for a machine without TransformerEngine.

Where TransformerEngine fuses a norm into the linear layer that follows, a norm of its own stands
before it; the keys of checkpoints are mapped to the fused names, so that both read each other's.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.hybrid.hybrid_block import HybridStack, HybridStackSubmodules
from megatron.core.ssm.mamba_layer import MambaLayer, MambaLayerSubmodules
from megatron.core.ssm.mlp_layer import MLPLayer
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_layer import (
    MoETransformerLayer,
    TransformerLayer,
    TransformerLayerSubmodules,
)

from mimo_core.building import PackedAttention, RMSNorm, local_moe_builder


class LocalHybridStack(HybridStack):
    """``HybridStack`` with a final norm of ours.

    megatron-core 0.19 names TransformerEngine's ``TENorm`` literally for it, whatever the spec
    says. So the stack is built without one, and given ours.
    """

    def __init__(self, config: TransformerConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, post_layer_norm=False, **kwargs)
        self.post_layer_norm = True
        if self.post_process:
            self.final_norm = RMSNorm(
                config=config, hidden_size=config.hidden_size, eps=config.layernorm_epsilon
            )


def local_stack_spec(*, even_tokens: bool) -> ModuleSpec:
    """Spec of the stack; the layers that the pattern names are built from it.

    Args:
        even_tokens: As :func:`~mimo_core.building.local_moe_builder` takes it.
    """
    return ModuleSpec(
        module=LocalHybridStack,
        submodules=HybridStackSubmodules(
            mamba_layer=_mamba_layer(),
            attention_layer=_attention_layer(),
            mlp_layer=_mlp_layer(),
            moe_layer=_moe_layer(local_moe_builder(even_tokens=even_tokens)),
        ),
    )


def _mamba_layer() -> ModuleSpec:
    # Imported late: it looks for its kernels when it is imported (see kernels.provide).
    from megatron.core.ssm.mamba_mixer import MambaMixer, MambaMixerSubmodules

    mixer = ModuleSpec(
        module=MambaMixer,
        submodules=MambaMixerSubmodules(in_proj=ColumnParallelLinear, out_proj=RowParallelLinear),
    )
    return ModuleSpec(
        module=MambaLayer,
        submodules=MambaLayerSubmodules(
            norm=RMSNorm,
            mixer=mixer,
            mamba_bda=get_bias_dropout_add,
            sharded_state_dict_keys_map={"norm.": "mixer.in_proj.layer_norm_"},
        ),
    )


def _attention_layer() -> ModuleSpec:
    attention = ModuleSpec(
        module=SelfAttention,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=SelfAttentionSubmodules(
            linear_qkv=ColumnParallelLinear,
            core_attention=PackedAttention,
            linear_proj=RowParallelLinear,
        ),
    )
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=RMSNorm,
            self_attention=attention,
            self_attn_bda=get_bias_dropout_add,
            sharded_state_dict_keys_map={
                "input_layernorm.": "self_attention.linear_qkv.layer_norm_"
            },
        ),
    )


def _mlp_layer() -> ModuleSpec:
    linears = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
    return ModuleSpec(
        module=MLPLayer,
        submodules=TransformerLayerSubmodules(
            pre_mlp_layernorm=RMSNorm,
            mlp=partial(MLP.as_mlp_submodule, submodules=linears),
            mlp_bda=get_bias_dropout_add,
            sharded_state_dict_keys_map={"pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_"},
        ),
    )


def _moe_layer(experts: Any) -> ModuleSpec:
    return ModuleSpec(
        module=MoETransformerLayer,
        submodules=TransformerLayerSubmodules(
            pre_mlp_layernorm=RMSNorm, mlp=experts, mlp_bda=get_bias_dropout_add
        ),
    )
