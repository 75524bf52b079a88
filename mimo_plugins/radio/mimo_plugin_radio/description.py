"""A RADIO encoder in numbers, without torch."""

from __future__ import annotations

from collections.abc import Sequence

from mimo_core import Description, Media, Module, Weights
from mimo_plugin_radio.options import Options, options_of


def describe_encoder(module: Module) -> Description:
    """The tower and its projector, for the plan, the validation and the data path."""
    options = options_of(module)
    language_width = module.language_width
    assert language_width is not None, f"{module.name} is described without the language width"

    def positions(media: Sequence[Media]) -> list[int]:
        return [options.positions] * len(media)

    return Description(
        width=options.output_width,
        layers=options.tower_layers,
        heads=options.tower_heads,
        weights=(
            Weights(parameters=_tower_parameters(options)),
            Weights(
                parameters=_projector_parameters(options, language_width),
                part="projector",
                at="last",
            ),
        ),
        flops_per_position=_flops_per_image(options, language_width) / options.patches,
        accepts="image",
        positions=positions,
        parallel=frozenset({"tp", "dp"}),
        divides=_divides(options, language_width),
    )


def _tower_parameters(options: Options) -> int:
    width, ffn = options.tower_width, options.tower_ffn_width
    attention = 4 * width * width + 4 * width
    feed_forward = 2 * width * ffn + ffn + width
    norms = 2 * 2 * width
    embedder = 3 * options.patch_size**2 * width
    grid = (options.max_image_size // options.patch_size) ** 2 * width
    layers = options.tower_layers * (attention + feed_forward + norms)
    return embedder + grid + options.class_tokens * width + layers


def _projector_parameters(options: Options, language_width: int) -> int:
    width, inner = options.output_width, options.projector_width
    if options.projector == "affine":
        return (width + 1) * language_width
    return (width + 1) * inner + (inner + 1) * language_width


def _flops_per_image(options: Options, language_width: int) -> float:
    """Multiplications and additions of one picture's forward: matrix products only."""
    width = options.tower_width
    sequence = options.patches + options.class_tokens
    products = 4 * width * width + 2 * width * options.tower_ffn_width
    scores = 2 * sequence * width
    tower = sequence * options.tower_layers * (products + scores)
    embedder = options.patches * 3 * options.patch_size**2 * width
    inner = options.projector_width
    if options.projector == "affine":
        projector = options.output_width * language_width
    else:
        projector = inner * (options.output_width + language_width)
    return 2.0 * (tower + embedder + options.positions * projector)


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
