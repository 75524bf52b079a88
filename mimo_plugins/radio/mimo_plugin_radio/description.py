"""A RADIO encoder in numbers, without torch."""

from __future__ import annotations

from collections.abc import Sequence

from mimo_core import MediaItem, ModuleConfig, ModuleDescription
from mimo_plugin_radio.options import Options, options_of
from mimo_plugin_radio.sizes import picture_sizes
from mimo_plugin_radio.weights import weights

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
        "num_moe_experts",
        # Would put other layers on a pipeline stage than the weights' places say.
        "num_layers_in_first_pipeline_stage",
        "num_layers_in_last_pipeline_stage",
        "account_for_embedding_in_pipeline_split",
        "account_for_loss_in_pipeline_split",
        "pipeline_model_parallel_layout",
    }
)
"""What the options say, or RADIO itself: a recipe cannot set it beside them."""


def describe_encoder(module: ModuleConfig) -> ModuleDescription:
    """The tower and its projector, for the plan, the validation and the data path."""
    options = options_of(module)
    language_width = module.language_width
    assert language_width is not None, f"{module.name} is described without the language width"

    def positions(media: Sequence[MediaItem]) -> list[int]:
        sizes = picture_sizes([medium.shape for medium in media], options)
        return [options.positions_of(size) for size in sizes]

    return ModuleDescription(
        hidden_size=options.output_width,
        num_layers=options.tower_layers,
        num_attention_heads=options.tower_heads,
        parameters=weights(options, language_width),
        modality=options.media,
        count_positions=positions,
        supported_parallelism=frozenset({"tp", "pp", "dp"}),
        divisibility=_divides(options, language_width),
        owned_config_fields=OWNS,
    )


def _divides(options: Options, language_width: int) -> tuple[tuple[str, int, str], ...]:
    sizes = {
        "attention heads": options.tower_heads,
        "hidden width": options.tower_width,
        "feed-forward width": options.tower_ffn_width,
    }
    if options.projector == "affine":
        sizes["language width"] = language_width
    else:
        sizes["projector width"] = options.projector_width
    return tuple((what, value, "tp") for what, value in sizes.items())
