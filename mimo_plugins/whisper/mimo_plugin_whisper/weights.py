"""The module's parameters by how they lie on its ranks."""

from __future__ import annotations

from mimo_core import Weights
from mimo_plugin_whisper.options import Options

_SPLIT = frozenset({"tp"})


def weights(options: Options, language_width: int) -> tuple[Weights, ...]:
    """All parameters of tower and projector; the table of positions is none.

    tp divides the projections of attention and feed-forward layers, and the biases of those that
    put out a rank's own features. Every tp rank has the convolutions, the norms and the biases
    added to summed outputs whole.
    """
    width, ffn = options.tower_width, options.tower_ffn_width
    convolutions = 3 * width * (options.mel_bins + width) + 2 * width
    entries = [Weights(parameters=convolutions)]
    attention, feed_forward = 4 * width * width + 2 * width, 2 * width * ffn + ffn
    norms, output_biases = 4 * width, 2 * width
    for layer in range(options.tower_layers):
        entries += [
            Weights(parameters=attention + feed_forward, split=_SPLIT, at=layer),
            Weights(parameters=norms + output_biases, at=layer),
        ]
    entries.append(Weights(parameters=2 * width, at="last"))
    return (*entries, *_projector(options, language_width))


def _projector(options: Options, language_width: int) -> tuple[Weights, ...]:
    width, bias = options.output_width, options.projector_bias
    if options.projector == "affine":
        divided, whole = (width + bias) * language_width, 0
    else:
        inner = options.projector_width(language_width)
        divided = (width + bias) * inner + inner * language_width
        whole = bias * language_width
    entries = [Weights(parameters=divided, part="projector", split=_SPLIT, at="last")]
    if whole:
        entries.append(Weights(parameters=whole, part="projector", at="last"))
    return tuple(entries)
