"""Specs and configs of the tower and its projector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from megatron.core.models.vision.multimodal_projector import MultimodalProjector
from megatron.core.models.vision.vit_layer_specs import (
    get_vit_layer_with_local_spec,
    get_vit_layer_with_transformer_engine_spec,
)
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec

from mimo_core import EncoderSpec, ModuleConfig, Platform
from mimo_core.building import PackedAttention, transformer_config
from mimo_plugin_whisper.attention import WhisperAttention
from mimo_plugin_whisper.options import options_of
from mimo_plugin_whisper.tower import WhisperTower


def encoder(
    module: ModuleConfig, groups: ProcessGroupCollection | None, platform: Platform
) -> EncoderSpec:
    """Tower and projector of the module, of TransformerEngine layers where the platform has it."""
    config = tower_config(module)
    tower = ModuleSpec(
        module=WhisperTower,
        params={
            "config": config,
            "layer_spec": _layer_spec(platform),
            "options": options_of(module),
            "pg_collection": groups,
        },
    )
    return EncoderSpec(tower=tower, config=config, projector=_projector(module, groups, platform))


def _layer_spec(platform: Platform) -> ModuleSpec:
    """megatron-core's vision layers, not causal, are Whisper's but for the bias of the keys."""
    if platform.transformer_engine:
        spec = get_vit_layer_with_transformer_engine_spec()
    else:
        spec = get_vit_layer_with_local_spec()
        # TransformerEngine fuses the norms with the linear layers behind them: one key for both.
        spec.submodules.sharded_state_dict_keys_map = {
            "input_layernorm.": "self_attention.linear_qkv.layer_norm_",
            "pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_",
        }
        spec.submodules.self_attention.submodules.core_attention = PackedAttention
    attention = spec.submodules.self_attention
    attention.module = WhisperAttention
    attention.submodules.linear_qkv = _without_bias(attention.submodules.linear_qkv)
    return spec


def _without_bias(linear: Callable[..., Any]) -> Callable[..., Any]:
    """The fused linear layer; see :class:`WhisperAttention`."""

    def build(*args: Any, **kwargs: Any) -> Any:
        return linear(*args, **(kwargs | {"bias": False}))

    return build


def tower_config(module: ModuleConfig) -> TransformerConfig:
    """Whisper's layers: pre-norm with LayerNorm, GELU, biases."""
    options = options_of(module)
    return transformer_config(
        module,
        num_layers=options.tower_layers,
        hidden_size=options.tower_width,
        num_attention_heads=options.tower_heads,
        ffn_hidden_size=options.tower_ffn_width,
        activation_func=F.gelu,
        normalization="LayerNorm",
        layernorm_epsilon=1e-5,
        hidden_dropout=options.dropout,
        attention_dropout=options.dropout,
        add_bias_linear=True,
    )


def _projector(
    module: ModuleConfig, groups: ProcessGroupCollection | None, platform: Platform
) -> ModuleSpec:
    options = options_of(module)
    assert module.language_width is not None
    config = transformer_config(
        module,
        num_layers=1,
        hidden_size=module.language_width,
        # No attention here, but the config demands heads that tp divides.
        num_attention_heads=module.grid.tp,
        ffn_hidden_size=options.projector_width(module.language_width),
        activation_func=F.gelu,
        add_bias_linear=options.projector_bias,
    )
    return ModuleSpec(
        module=MultimodalProjector,
        params={
            "config": config,
            "submodules": _projector_layers(options.projector, platform),
            "projector_type": options.projector,
            "input_size": options.output_width,
            "tp_group": groups.tp if groups is not None else None,
        },
    )


def _projector_layers(kind: str, platform: Platform) -> MLPSubmodules:
    if kind == "affine":
        return MLPSubmodules(linear_fc1=_gathered_linear, linear_fc2=RowParallelLinear)
    if platform.transformer_engine:
        from megatron.core.extensions.transformer_engine import (
            TEColumnParallelLinear,
            TERowParallelLinear,
        )

        return MLPSubmodules(linear_fc1=TEColumnParallelLinear, linear_fc2=TERowParallelLinear)
    return MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)


def _gathered_linear(*args: Any, **kwargs: Any) -> ColumnParallelLinear:
    """The affine projector's layer, on every machine core's own: TransformerEngine's cannot gather.

    MultimodalProjector asks for the bias apart and adds it to the gathered output; with tp that
    is one rank's part of the bias. Here each rank adds its part before the gathering.
    """
    return ColumnParallelLinear(*args, **(kwargs | {"skip_bias_add": False}))
