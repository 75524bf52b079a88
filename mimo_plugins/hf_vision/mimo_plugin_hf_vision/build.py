"""Specs and configs of the tower and its projector."""

from __future__ import annotations

import torch.nn.functional as F
from megatron.core.models.vision.multimodal_projector import MultimodalProjector
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec

from mimo_core import EncoderSpec, ModuleConfig
from mimo_core.building import transformer_config
from mimo_plugin_hf_vision.architecture import architecture
from mimo_plugin_hf_vision.options import options_of
from mimo_plugin_hf_vision.preprocessing import preprocessing
from mimo_plugin_hf_vision.tower import Tower


def encoder(module: ModuleConfig, groups: ProcessGroupCollection | None) -> EncoderSpec:
    """Tower and projector of the module."""
    options = options_of(module)
    found = architecture(options)
    config = transformer_config(
        module,
        num_layers=found.layers,
        hidden_size=found.width,
        num_attention_heads=found.heads,
        # Read by those who ask whether the module draws numbers; transformers has its own config.
        hidden_dropout=found.dropout("hidden_dropout_prob", "drop_path_rate"),
        attention_dropout=found.dropout("attention_dropout", "attention_probs_dropout_prob"),
    )
    tower = ModuleSpec(
        module=Tower,
        params={
            "config": config,
            "architecture": found,
            "options": options,
            "size": preprocessing(found, options).size,
            "pg_collection": groups,
        },
    )
    return EncoderSpec(tower=tower, config=config, projector=_projector(module, groups))


def _projector(module: ModuleConfig, groups: ProcessGroupCollection | None) -> ModuleSpec:
    options = options_of(module)
    config = transformer_config(
        module,
        num_layers=1,
        hidden_size=module.language_width,
        # No attention here, but the config demands heads.
        num_attention_heads=1,
        ffn_hidden_size=options.projector_hidden_size or module.language_width,
        activation_func=F.gelu,
        add_bias_linear=True,
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )
    return ModuleSpec(
        module=MultimodalProjector,
        params={
            "config": config,
            "submodules": MLPSubmodules(
                linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear
            ),
            "projector_type": options.projector,
            "input_size": architecture(options).width,
            "tp_group": groups.tp if groups is not None else None,
        },
    )
