"""The module's parameters by how they lie on its ranks."""

from __future__ import annotations

from mimo_core import ParameterSpec
from mimo_plugin_radio.options import Options

_SPLIT = frozenset({"tp"})


def weights(options: Options, language_width: int) -> tuple[ParameterSpec, ...]:
    """All parameters of tower and projector.

    tp divides the patch embedder, the projections of attention and feed-forward layers, and the
    biases of those that put out a rank's own features. Every tp rank has the norms, the biases
    added to summed outputs, position embeddings and class tokens whole.
    """
    width, ffn = options.tower_width, options.tower_ffn_width
    grid = (options.max_image_size // options.patch_size) ** 2
    entries = [
        ParameterSpec(num_parameters=3 * options.patch_size**2 * width, sharded_over=_SPLIT),
        ParameterSpec(num_parameters=(grid + options.class_tokens) * width),
    ]
    attention, feed_forward = 4 * width * width + 3 * width, 2 * width * ffn + ffn
    norms, output_biases = 4 * width, 2 * width
    for layer in range(options.tower_layers):
        entries += [
            ParameterSpec(
                num_parameters=attention + feed_forward, sharded_over=_SPLIT, layer=layer
            ),
            ParameterSpec(num_parameters=norms + output_biases, layer=layer),
        ]
    return (*entries, *_projector(options, language_width))


def _projector(options: Options, language_width: int) -> tuple[ParameterSpec, ...]:
    width, inner, bias = options.output_width, options.projector_width, options.projector_bias
    if options.projector == "affine":
        divided, whole = (width + bias) * language_width, 0
    else:
        divided = (width + bias) * inner + inner * language_width
        whole = bias * language_width
    if options.projector_norm == "rms":
        whole += width
    entries = [
        ParameterSpec(
            num_parameters=divided, component="projector", sharded_over=_SPLIT, layer="last"
        )
    ]
    if whole:
        entries.append(ParameterSpec(num_parameters=whole, component="projector", layer="last"))
    return tuple(entries)
