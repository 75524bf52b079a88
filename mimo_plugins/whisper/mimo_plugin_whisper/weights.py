"""The module's parameters by how they lie on its ranks."""

from __future__ import annotations

from mimo_core import ParameterSpec
from mimo_plugin_whisper.options import Options

_SPLIT = frozenset({"tp"})


def weights(options: Options, language_width: int) -> tuple[ParameterSpec, ...]:
    """All parameters of tower and projector; the table of positions is none.

    tp divides the projections of attention and feed-forward layers, and the biases of those that
    put out a rank's own features. Every tp rank has the convolutions, the norms and the biases
    added to summed outputs whole.
    """
    width, ffn = options.tower_width, options.tower_ffn_width
    convolutions = 3 * width * (options.mel_bins + width) + 2 * width
    entries = [ParameterSpec(num_parameters=convolutions)]
    attention, feed_forward = 4 * width * width + 2 * width, 2 * width * ffn + ffn
    norms, output_biases = 4 * width, 2 * width
    for layer in range(options.tower_layers):
        entries += [
            ParameterSpec(
                num_parameters=attention + feed_forward, sharded_over=_SPLIT, layer=layer
            ),
            ParameterSpec(num_parameters=norms + output_biases, layer=layer),
        ]
    entries.append(ParameterSpec(num_parameters=2 * width, layer="last"))
    return (*entries, *_projector(options, language_width))


def _projector(options: Options, language_width: int) -> tuple[ParameterSpec, ...]:
    width, bias = options.output_width, options.projector_bias
    if options.projector == "affine":
        divided, whole = (width + bias) * language_width, 0
    else:
        inner = options.projector_width(language_width)
        divided = (width + bias) * inner + inner * language_width
        whole = bias * language_width
    entries = [
        ParameterSpec(
            num_parameters=divided, component="projector", sharded_over=_SPLIT, layer="last"
        )
    ]
    if whole:
        entries.append(ParameterSpec(num_parameters=whole, component="projector", layer="last"))
    return tuple(entries)
