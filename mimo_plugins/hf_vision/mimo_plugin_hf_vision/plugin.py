"""The plugin's hooks. torch and transformers are imported only where something is built."""

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
from mimo_plugin_hf_vision.options import Options, options_of

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection

mimo_contract = "1.0"


@hookimpl
def options_class() -> type:
    """What the recipe's ``modules.NAME.options`` may say."""
    return Options


@hookimpl
def describe_module(module: ModuleConfig) -> ModuleDescription:
    """Sizes, parameters (projector included), positions a picture: from the model's files."""
    from mimo_plugin_hf_vision.description import describe_encoder

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
    """Of tower and projector: all pictures have one size."""
    from mimo_plugin_hf_vision.flops import forward_flops

    return forward_flops(module, samples)


@hookimpl
def param_mappings(module: ModuleConfig) -> ParamMappings:
    """The tower's names as the model's files have them, and LLaVA's of the projector."""
    from mimo_plugin_hf_vision import names

    return names.weight_map(module)


@hookimpl
def build_submodule(
    module: ModuleConfig, groups: ProcessGroupCollection | None, platform: Platform
) -> EncoderSpec:
    """The tower, and an affine or MLP projector."""
    from mimo_plugin_hf_vision.build import encoder

    return encoder(module, groups)


@hookimpl
def provide_batch(
    module: ModuleConfig, samples: Sequence[Sample], context: BatchContext
) -> dict[str, Any] | None:
    """``pixel_values``, float32 ``[B, 3, height, width]``: all pictures of the samples."""
    options = options_of(module)
    if not any(True for sample in samples for _ in sample.media(options.media)):
        return None
    from mimo_plugin_hf_vision.architecture import architecture
    from mimo_plugin_hf_vision.pictures import picture_batch
    from mimo_plugin_hf_vision.preprocessing import preprocessing

    return picture_batch(
        context.decode_media(samples), preprocessing(architecture(options), options)
    )
