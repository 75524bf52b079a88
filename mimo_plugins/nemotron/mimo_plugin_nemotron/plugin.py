"""The hooks. Importing this module imports neither torch nor megatron."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mimo_core import (
    BatchContext,
    Description,
    Flops,
    Module,
    Platform,
    Sample,
    WeightMap,
    hookimpl,
)
from mimo_plugin_nemotron import description, hub
from mimo_plugin_nemotron.flops import forward_flops
from mimo_plugin_nemotron.options import Options

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer.spec_utils import ModuleSpec

mimo_contract = "1.0"


@hookimpl
def options() -> type:
    return Options


@hookimpl
def describe(module: Module) -> Description:
    return description.describe(module)


@hookimpl
def rng_prefix(module: Module) -> str:
    return f"{module.name}."


@hookimpl
def flops(module: Module, lengths: Sequence[int]) -> Sequence[Flops]:
    return forward_flops(module, lengths)


@hookimpl
def weight_map(module: Module) -> WeightMap:
    return hub.weight_map(module)


@hookimpl
def build_submodule(
    module: Module, groups: ProcessGroupCollection | None, platform: Platform
) -> ModuleSpec:
    from mimo_plugin_nemotron.model import model_spec

    return model_spec(module, groups, platform)


@hookimpl
def provide_batch(
    module: Module, samples: Sequence[Sample], context: BatchContext
) -> dict[str, Any]:
    import attrs
    import torch

    sequences = context.sequences(samples)
    arrays = attrs.asdict(sequences, recurse=False)
    return {name: torch.from_numpy(a) for name, a in arrays.items() if a is not None}
