"""Floating-point operations of a Whisper encoder's forward, without torch."""

from __future__ import annotations

from collections.abc import Sequence

from mimo_core import FlopsEstimate, ModuleConfig, Sample
from mimo_plugin_whisper.options import options_of
from mimo_plugin_whisper.windows import window_positions


def forward_flops(
    module: ModuleConfig, samples: Sequence[Sample]
) -> tuple[FlopsEstimate, FlopsEstimate]:
    """Of tower and projector: each window attends to its own positions, all to all. Frames of zeros
    that make windows of a batch equally long are no work of the model."""
    options = options_of(module)
    width = options.tower_width
    language_width = module.language_width
    assert language_width is not None, f"{module.name} is asked without the language width"
    windows = [
        length
        for sample in samples
        for medium in sample.media(options.media)
        for length in window_positions(medium.shape, options)
    ]
    # The first convolution works on twice as many frames.
    convolutions = 3 * width * (2 * options.mel_bins + width)
    layer = 4 * width**2 + 2 * width * options.tower_ffn_width
    if options.projector == "affine":
        projector = options.output_width * language_width
    else:
        inner = options.projector_width(language_width)
        projector = inner * (options.output_width + language_width)
    positions = sum(windows)
    pairs = sum(length**2 for length in windows)
    tower = FlopsEstimate(
        component="encoder",
        weight_matmul=2.0 * positions * (convolutions + options.tower_layers * layer),
        # Scores, and values weighted by them.
        activation_matmul=2.0 * pairs * options.tower_layers * 2 * width,
    )
    rows = positions // options.stack
    return tower, FlopsEstimate(component="projector", weight_matmul=2.0 * rows * projector)
