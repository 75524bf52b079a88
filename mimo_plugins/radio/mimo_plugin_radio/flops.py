"""Floating-point operations of a RADIO encoder's forward, without torch."""

from __future__ import annotations

from collections.abc import Sequence

from mimo_core import FlopsEstimate, ModuleConfig, Sample
from mimo_plugin_radio.options import Options, options_of
from mimo_plugin_radio.sizes import picture_sizes


def forward_flops(
    module: ModuleConfig, samples: Sequence[Sample]
) -> tuple[FlopsEstimate, FlopsEstimate]:
    """Of tower and projector: each picture attends to its own patches and class tokens, all to
    all."""
    options = options_of(module)
    width = options.tower_width
    language_width = module.language_width
    assert language_width is not None, f"{module.name} is asked without the language width"
    embedded = encoded = pairs = rows = 0
    for sample in samples:
        shapes = [medium.shape for medium in sample.media(options.media)]
        for height, across in picture_sizes(shapes, options):
            patches = height * across // options.patch_size**2
            sequence = patches + options.class_tokens
            embedded += patches
            encoded += sequence
            pairs += sequence**2
            rows += options.positions_of((height, across))
    embedder = 3 * options.patch_size**2 * width
    layer = 4 * width**2 + 2 * width * options.tower_ffn_width
    tower = FlopsEstimate(
        component="encoder",
        weight_matmul=2.0 * (embedded * embedder + encoded * options.tower_layers * layer),
        # Scores, and values weighted by them.
        activation_matmul=2.0 * pairs * options.tower_layers * 2 * width,
    )
    projector = 2.0 * rows * _projector(options, language_width)
    return tower, FlopsEstimate(component="projector", weight_matmul=projector)


def _projector(options: Options, language_width: int) -> int:
    """Weights of the projector's matrices."""
    if options.projector == "affine":
        return options.output_width * language_width
    return options.projector_width * (options.output_width + language_width)
