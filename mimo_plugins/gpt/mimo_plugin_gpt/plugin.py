"""The hooks. Importing this module imports neither torch nor megatron."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mimo_core import (
    BatchContext,
    FlopsEstimate,
    ModuleConfig,
    ModuleDescription,
    ParamMappings,
    Platform,
    Sample,
    hookimpl,
)
from mimo_plugin_gpt import description, hub
from mimo_plugin_gpt.flops import forward_flops
from mimo_plugin_gpt.options import Options

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer.spec_utils import ModuleSpec

mimo_contract = "1.0"


@hookimpl
def options_class() -> type:
    return Options


@hookimpl
def describe_module(module: ModuleConfig) -> ModuleDescription:
    return description.describe(module)


@hookimpl
def rng_prefix(module: ModuleConfig) -> str:
    return f"{module.name}."


@hookimpl
def estimate_flops(module: ModuleConfig, lengths: Sequence[int]) -> Sequence[FlopsEstimate]:
    return forward_flops(module, lengths)


@hookimpl
def param_mappings(module: ModuleConfig) -> ParamMappings:
    return hub.weight_map(module)


@hookimpl
def build_submodule(
    module: ModuleConfig, groups: ProcessGroupCollection | None, platform: Platform
) -> ModuleSpec:
    from mimo_plugin_gpt.model import model_spec

    return model_spec(module, groups, platform)


@hookimpl
def provide_batch(
    module: ModuleConfig, samples: Sequence[Sample], context: BatchContext
) -> dict[str, Any]:
    import attrs
    import torch

    sequences = context.build_tokens(samples)
    arrays = attrs.asdict(sequences, recurse=False)
    return {name: torch.from_numpy(a) for name, a in arrays.items() if a is not None}
