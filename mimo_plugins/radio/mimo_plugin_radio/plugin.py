"""The plugin's hooks. torch and megatron are imported only where something is built or batched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mimo_core import (
    LANGUAGE,
    BatchContext,
    Edge,
    EncoderSpec,
    FlopsEstimate,
    ModuleConfig,
    ModuleDescription,
    ParamMappings,
    Platform,
    Sample,
    hookimpl,
)
from mimo_plugin_radio.options import Options, options_of

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection

mimo_contract = "1.0"


@hookimpl
def options_class() -> type:
    """What the recipe's ``modules.NAME.options`` may say."""
    return Options


@hookimpl
def describe_module(module: ModuleConfig) -> ModuleDescription:
    """Sizes, parameters (projector included), positions a picture."""
    from mimo_plugin_radio.description import describe_encoder

    return describe_encoder(module)


@hookimpl
def module_edges(module: ModuleConfig, modules: Mapping[str, ModuleConfig]) -> Sequence[Edge]:
    """One edge, into the language model."""
    placeholder = options_of(module).placeholder or f"<{module.name}>"
    return [Edge(source=module.name, target=LANGUAGE, placeholder=placeholder)]


@hookimpl
def rng_prefix(module: ModuleConfig) -> str:
    """The module's own name: distinct for two modules of this plugin."""
    return f"{module.name}."


@hookimpl
def estimate_flops(module: ModuleConfig, samples: Sequence[Sample]) -> Sequence[FlopsEstimate]:
    """Of tower and projector, told from the samples' metadata."""
    from mimo_plugin_radio.flops import forward_flops

    return forward_flops(module, samples)


@hookimpl
def param_mappings(module: ModuleConfig) -> ParamMappings:
    """The names of RADIO's files, and of the projector's beside it."""
    from mimo_plugin_radio import hub

    return hub.weight_map(module)


@hookimpl
def build_submodule(
    module: ModuleConfig, groups: ProcessGroupCollection | None, platform: Platform
) -> EncoderSpec:
    """The tower, and an affine or MLP projector."""
    from mimo_plugin_radio.build import encoder

    return encoder(module, groups, platform)


@hookimpl
def provide_batch(
    module: ModuleConfig, samples: Sequence[Sample], context: BatchContext
) -> dict[str, Any] | None:
    """What the tower's forward takes: see ``mimo_plugin_radio.batch``."""
    from mimo_plugin_radio.batch import image_batch, packed_batch, packed_sizes

    options = options_of(module)
    if not any(True for sample in samples for _ in sample.media(options.media)):
        return None
    fixed = options.resolution == "fixed"
    if not context.first_stage:
        return {} if fixed else packed_sizes(samples, options)
    pictures = context.decode_media(samples)
    return image_batch(pictures, options) if fixed else packed_batch(samples, pictures, options)
