"""Specs and configs of the tower and its projector."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch.nn.functional as F
from megatron.core.activations import squared_relu
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
from mimo_plugin_radio import flash
from mimo_plugin_radio.options import Options, options_of
from mimo_plugin_radio.projector import NormedProjector
from mimo_plugin_radio.tower import PackedTower, SquareTower


def encoder(
    module: ModuleConfig, groups: ProcessGroupCollection | None, platform: Platform
) -> EncoderSpec:
    """Tower and projector of the module, of TransformerEngine layers where the platform has it."""
    config = tower_config(module)
    options = options_of(module)
    tower = ModuleSpec(
        module=PackedTower if options.resolution == "dynamic" else SquareTower,
        params={
            "config": config,
            "layer_spec": _layer_spec(module, platform),
            "options": options,
            "pg_collection": groups,
        },
    )
    return EncoderSpec(tower=tower, config=config, projector=_projector(module, groups, platform))


def _layer_spec(module: ModuleConfig, platform: Platform) -> ModuleSpec:
    options = options_of(module)
    if platform.transformer_engine:
        spec = get_vit_layer_with_transformer_engine_spec()
        parts = spec.submodules.self_attention.submodules
        parts.linear_proj = partial(_with_bias, parts.linear_proj)
        mlp = spec.submodules.mlp.keywords["submodules"]
        mlp.linear_fc1 = partial(_with_bias, mlp.linear_fc1)
        mlp.linear_fc2 = partial(_with_bias, mlp.linear_fc2)
        if options.resolution == "dynamic":
            parts.core_attention = _te_attention(module, options)
        return spec
    spec = get_vit_layer_with_local_spec()
    # TransformerEngine fuses the norms with the linear layers behind them: one key for both.
    spec.submodules.sharded_state_dict_keys_map = {
        "input_layernorm.": "self_attention.linear_qkv.layer_norm_",
        "pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_",
    }
    if options.resolution == "dynamic":
        spec.submodules.self_attention.submodules.core_attention = PackedAttention
    return spec


def _te_attention(module: ModuleConfig, options: Options) -> Any:
    from mimo_plugin_radio.te_attention import FlashAttention, PicturesAttention

    if options.flash_attention and module.precision == "bf16":
        return ModuleSpec(module=FlashAttention, params={"kernels": flash.kernels(module)})
    return PicturesAttention


def tower_config(module: ModuleConfig) -> TransformerConfig:
    """RADIO's layers: pre-norm with LayerNorm, GELU, biases everywhere."""
    options = options_of(module)
    return transformer_config(
        module,
        num_layers=options.tower_layers,
        hidden_size=options.tower_width,
        num_attention_heads=options.tower_heads,
        ffn_hidden_size=options.tower_ffn_width,
        activation_func=F.gelu,
        normalization="LayerNorm",
        layernorm_epsilon=options.norm_epsilon,
        hidden_dropout=options.dropout,
        attention_dropout=options.dropout,
        add_bias_linear=True,
    )


def _projector(
    module: ModuleConfig, groups: ProcessGroupCollection | None, platform: Platform
) -> ModuleSpec:
    options = options_of(module)
    config = transformer_config(
        module,
        num_layers=1,
        hidden_size=module.language_width,
        # No attention here, but the config demands heads that tp divides.
        num_attention_heads=module.grid.tp,
        ffn_hidden_size=options.projector_width,
        activation_func=squared_relu,
        add_bias_linear=options.projector_bias,
    )
    return ModuleSpec(
        module=NormedProjector if options.projector_norm == "rms" else MultimodalProjector,
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


def _with_bias(linear: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A layer that adds its bias in the matrix product, where core's would add it in a kernel of
    its own behind it, and sum its gradient in another."""
    layer = linear(*args, **(kwargs | {"skip_bias_add": False}))
    if kwargs["config"].tensor_model_parallel_size == 1:
        # TransformerEngine expects a sum over ranks before a row-parallel layer's bias.
        layer.gemm_bias_unfused_add = False
    return layer


def _gathered_linear(*args: Any, **kwargs: Any) -> ColumnParallelLinear:
    """The affine projector's layer, on every machine core's own: TransformerEngine's cannot gather.

    MultimodalProjector asks for the bias apart and adds it to the gathered output; with tp that
    is one rank's part of the bias. Here each rank adds its part before the gathering.
    """
    return ColumnParallelLinear(*args, **(kwargs | {"skip_bias_add": False}))
