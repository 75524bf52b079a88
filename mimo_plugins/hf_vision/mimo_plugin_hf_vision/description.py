"""A tower and its projector in numbers, without torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mimo_core import MediaItem, ModuleConfig, ModuleDescription, ParameterSpec
from mimo_plugin_hf_vision import whole
from mimo_plugin_hf_vision.architecture import Architecture, architecture
from mimo_plugin_hf_vision.names import parameters, projector_shapes, tensor_shapes, unread
from mimo_plugin_hf_vision.options import Options, options_of
from mimo_plugin_hf_vision.preprocessing import preprocessing
from mimo_plugin_hf_vision.processors import SCALED_FIRST, torchvision_class

OWNS = frozenset(
    {
        "num_layers",
        "hidden_size",
        "num_attention_heads",
        "num_query_groups",
        "kv_channels",
        "ffn_hidden_size",
        "activation_func",
        "gated_linear_unit",
        "add_bias_linear",
        "add_qkv_bias",
        "qk_layernorm",
        "normalization",
        "layernorm_epsilon",
        "layernorm_zero_centered_gamma",
        "hidden_dropout",
        "attention_dropout",
        "attention_backend",
        "num_moe_experts",
        "recompute_granularity",
        "recompute_method",
        "recompute_num_layers",
        "recompute_modules",
    }
)
"""Of Megatron's layers, which are not here: the model's files and the options say what is."""

_WHOLE = "the module of transformers runs as it is, "
REFUSED = {
    "tp": f"{_WHOLE}each layer whole on its rank; use dp, or a plugin of Megatron's layers "
    "(such as radio) for tp",
    "pp": f"{_WHOLE}all layers on one rank",
    "cp": f"{_WHOLE}each picture whole on one rank",
}


def describe_encoder(module: ModuleConfig) -> ModuleDescription:
    """For the plan, the validation and the data path.

    Raises:
        MimoError: the model's files are not there, or do not tell what is needed.
    """
    options = options_of(module)
    language_width = module.language_width
    assert language_width is not None, f"{module.name} is described without the language width"
    tower = architecture(options)
    patches = tower.patches(preprocessing(tower, options).size)
    rows = patches + (tower.class_tokens if tower.tokens == "all" else 0)
    projector = parameters(projector_shapes(options, tower.width, language_width))

    def positions(media: Sequence[MediaItem]) -> list[int]:
        return [rows] * len(media)

    return ModuleDescription(
        hidden_size=tower.width,
        num_layers=tower.layers,
        num_attention_heads=tower.heads,
        parameters=(
            *_tower_weights(tower, options),
            ParameterSpec(num_parameters=projector, component="projector", layer="last"),
        ),
        modality=options.media,
        count_positions=positions,
        supported_parallelism=frozenset({"dp"}),
        unsupported_reasons=REFUSED,
        owned_config_fields=OWNS,
        notes=tuple(_notes(tower, options)),
    )


def _notes(tower: Architecture, options: Options) -> Iterator[str]:
    """What the model's files decide, and where pixels are not those that they ask for."""
    file = tower.directory / "config.json"
    if options.select_layer is None and tower.select_layer is not None:
        yield f"select_layer is {tower.select_layer}: {file} says so ({whole.LAYER})"
    if options.tokens is None and whole.STRATEGY in tower.rows:
        strategy = tower.rows[whole.STRATEGY]
        yield f"tokens is {tower.tokens}: {file} says so ({whole.STRATEGY} {strategy!r})"
    torchvision = torchvision_class(tower.directory)
    if torchvision and SCALED_FIRST not in torchvision[1]:
        file, name = torchvision
        yield (
            f"{file} says image_processor_type {name}: pixels are those of its version without "
            "Fast (Pillow's), which torchvision rounds otherwise"
        )


def _tower_weights(tower: Architecture, options: Options) -> Iterator[ParameterSpec]:
    """Exact where the tensors are known; else what transformer layers of this width have."""
    shapes = tensor_shapes(tower)
    if shapes is None:
        yield ParameterSpec(num_parameters=tower.layers * layer_parameters(tower))
        return
    still = parameters(unread(tower, options, shapes))
    yield ParameterSpec(num_parameters=parameters(shapes) - still)
    if still:
        yield ParameterSpec(num_parameters=still, frozen=True)


def layer_parameters(tower: Architecture) -> int:
    """Those of matrix products."""
    inner = tower.config.get("intermediate_size") or 4 * tower.width
    return int(4 * tower.width**2 + 2 * tower.width * inner)
