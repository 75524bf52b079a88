"""The hooks. torch is imported only where something is built."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import mimo_core as mimo
from mimo_plugin_mixer import names
from mimo_plugin_mixer.options import Options, options_of

mimo_contract = "1.0"


@mimo.hookimpl
def options_class() -> type:
    return Options


@mimo.hookimpl
def describe_module(module: mimo.ModuleConfig) -> mimo.ModuleDescription:
    options = options_of(module)
    width, patches = options.hidden_size, options.patches
    assert module.language_width is not None
    _, projector = names.projector(options, module.language_width)

    def positions(media: Sequence[mimo.MediaItem]) -> list[int]:
        return [patches] * len(media)

    return mimo.ModuleDescription(
        hidden_size=width,
        num_layers=options.layers,
        num_attention_heads=1,
        parameters=(
            mimo.ParameterSpec(
                num_parameters=sum(math.prod(shape) for _, shape in names.tower(options))
            ),
            mimo.ParameterSpec(
                num_parameters=math.prod(projector), component="projector", layer="last"
            ),
        ),
        modality="image",
        count_positions=positions,
        supported_parallelism=frozenset({"dp"}),
        unsupported_reasons={
            "tp": "its layers mix all patches of a picture, which are on one rank"
        },
        owned_config_fields=frozenset(
            {"num_layers", "hidden_size", "num_attention_heads", "ffn_hidden_size"}
        ),
    )


@mimo.hookimpl
def estimate_flops(
    module: mimo.ModuleConfig, samples: Sequence[mimo.Sample]
) -> Sequence[mimo.FlopsEstimate]:
    options = options_of(module)
    width, patches = options.hidden_size, options.patches
    assert module.language_width is not None
    pictures = sum(1 for sample in samples for _ in sample.media("image"))
    mixing = patches * options.patch_inner * width + width * options.channel_inner * patches
    stem = 3 * options.patch_size**2 * width * patches
    _, projector = names.projector(options, module.language_width)
    tower = 2.0 * pictures * (options.layers * 2 * mixing + stem)
    behind = 2.0 * pictures * patches * math.prod(projector)
    return [
        mimo.FlopsEstimate(weight_matmul=tower),
        mimo.FlopsEstimate(component="projector", weight_matmul=behind),
    ]


@mimo.hookimpl
def module_edges(
    module: mimo.ModuleConfig, modules: Mapping[str, mimo.ModuleConfig]
) -> Sequence[mimo.Edge]:
    return [mimo.Edge(source=module.name, target=mimo.LANGUAGE, placeholder=f"<{module.name}>")]


@mimo.hookimpl
def rng_prefix(module: mimo.ModuleConfig) -> str:
    return f"{module.name}."


@mimo.hookimpl
def param_mappings(module: mimo.ModuleConfig) -> mimo.ParamMappings:
    assert module.language_width is not None
    return mimo.ParamMappings(rules=tuple(names.rules(options_of(module), module.language_width)))


@mimo.hookimpl
def build_submodule(
    module: mimo.ModuleConfig, groups: Any, platform: mimo.Platform
) -> mimo.EncoderSpec:
    from megatron.core.transformer.spec_utils import ModuleSpec

    from mimo_core.building import transformer_config
    from mimo_plugin_mixer.tower import Mixer

    options = options_of(module)
    config = transformer_config(
        module,
        num_layers=options.layers,
        hidden_size=options.hidden_size,
        num_attention_heads=1,
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )
    params = {"config": config, "options": options, "groups": groups}
    return mimo.EncoderSpec(tower=ModuleSpec(module=Mixer, params=params), config=config)


@mimo.hookimpl
def provide_batch(
    module: mimo.ModuleConfig, samples: Sequence[mimo.Sample], context: mimo.BatchContext
) -> dict[str, Any] | None:
    pictures = context.decode_media(samples)
    if not pictures:
        return None
    from mimo_plugin_mixer.tower import squares

    return {"images": squares(pictures, options_of(module).image_size)}
