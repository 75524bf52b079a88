"""Run on a rank: what a module's ``TransformerConfig`` holds, where megatron can be imported."""

from __future__ import annotations

from typing import Any

from mimo_core import Grid, ModuleConfig, TrainingConfig
from mimo_core.recipe import megatron_schema

ARCHITECTURE = {"num_layers": 2, "hidden_size": 8, "num_attention_heads": 2}


def configs(platform: Any) -> dict[str, Any]:
    """Fields that a recipe set, fields that are the engine's, and what the source was read as."""
    import dataclasses

    from megatron.core.transformer import TransformerConfig
    from megatron.training.arguments import add_megatron_arguments

    from mimo_core.model.config import transformer_config
    from mimo_core.train.megatron_args import _parsed

    def module(name: str = "language", /, **fields: Any) -> ModuleConfig:
        train = TrainingConfig(
            iterations=1,
            micro_batch_size=1,
            global_batch_size=1,
            sequence_length=8,
            learning_rate=1.0,
        )
        return ModuleConfig(
            name=name, plugin="words", grid=Grid(tp=2), train=train, megatron=fields
        )

    given = {
        "recompute_granularity": "full",
        "recompute_method": "uniform",
        "recompute_num_layers": 1,
        "attention_backend": "unfused",
        "hidden_dropout": 0.5,
    }
    config = transformer_config(module(**given), **ARCHITECTURE, hidden_dropout=0.0)
    refused = set()
    for name in (field.name for field in dataclasses.fields(TransformerConfig)):
        try:
            transformer_config(module(), **{**ARCHITECTURE, name: None})
        except Exception as error:
            if getattr(error, "code", None) == "megatron.engine-field":
                refused.add(name)
    wrong = {"recompute_granularity": "selective", "recompute_modules": ["bogus"]}
    try:
        transformer_config(module(**wrong), **ARCHITECTURE)
        said = ""
    except ValueError as error:
        said = str(error)
    names = ("vision", "language")
    graphs = {
        name: transformer_config(module(name, cuda_graph_impl="local"), **ARCHITECTURE)
        for name in names
    }
    loss = {"cross_entropy_loss_fusion": True, "cross_entropy_fusion_impl": "te"}
    import argparse

    options = add_megatron_arguments(argparse.ArgumentParser())._option_string_actions
    return {
        "set": {name: str(getattr(config, name)) for name in given},
        "refused": sorted(refused),
        "wrong": said,
        "graphs": {name: config.cuda_graph_impl for name, config in graphs.items()},
        "parsed": sorted(_parsed({**loss, "log_throughput": True})),
        "fields": sorted(field.name for field in dataclasses.fields(TransformerConfig)),
        "flags": sorted(name[2:].replace("-", "_") for name in options if name.startswith("--")),
        "destinations": {
            name[2:].replace("-", "_"): action.dest
            for name, action in options.items()
            if name.startswith("--")
        },
        "known": sorted(megatron_schema.transformer_fields()),
    }
