"""What the partners are built of; imports torch and megatron."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec

from mimo_core.building import transformer_config
from mimo_core.contract import EncoderSpec, ModuleConfig


class Table(MegatronModule):  # type: ignore[misc]
    """A language model that is one table of embeddings."""

    def __init__(self, config: Any, rows: int, tp_group: Any) -> None:
        super().__init__(config=config)
        self.tp_group = tp_group  # what megatron-core 0.19 asks to save the children
        self.embedding = torch.nn.Embedding(rows, config.hidden_size)


class Rows(MegatronModule):  # type: ignore[misc]
    """A tower with one parameter, which is never called."""

    def __init__(self, config: Any, tp_group: Any) -> None:
        super().__init__(config=config)
        self.tp_group = tp_group
        self.scale = torch.nn.Parameter(torch.ones(1))


def language_spec(module: ModuleConfig, groups: Any) -> ModuleSpec:
    """Of the language model."""
    params = {"config": _config(module), "rows": module.vocabulary_size, "tp_group": _tp(groups)}
    return ModuleSpec(module=Table, params=params)


def encoder_parts(module: ModuleConfig, groups: Any) -> EncoderSpec:
    """Of the encoder; its projector is the core's."""
    config = _config(module)
    params = {"config": config, "tp_group": _tp(groups)}
    return EncoderSpec(tower=ModuleSpec(module=Rows, params=params), config=config)


def _tp(groups: Any) -> Any:
    return None if groups is None else groups.tp


def _config(module: ModuleConfig) -> Any:
    width = module.options.hidden_size
    return transformer_config(module, num_layers=1, hidden_size=width, num_attention_heads=1)
