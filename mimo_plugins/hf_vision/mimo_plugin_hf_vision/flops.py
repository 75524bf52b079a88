"""Floating-point operations of a tower's forward and its projector's, without torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mimo_core import FlopsEstimate, ModuleConfig, Sample
from mimo_plugin_hf_vision.architecture import Architecture, architecture
from mimo_plugin_hf_vision.description import layer_parameters
from mimo_plugin_hf_vision.names import projector_shapes, tensor_shapes
from mimo_plugin_hf_vision.options import options_of
from mimo_plugin_hf_vision.preprocessing import preprocessing


def forward_flops(
    module: ModuleConfig, samples: Sequence[Sample]
) -> tuple[FlopsEstimate, FlopsEstimate]:
    """Of tower and projector: each picture attends to all of itself. Layers behind the one that is
    read, and heads that no row depends on, are not counted, though transformers computes them."""
    options = options_of(module)
    tower = architecture(options)
    language_width = module.language_width
    assert language_width is not None, f"{module.name} is asked without the language width"
    pictures = sum(1 for sample in samples for _ in sample.media(options.media))
    patches = tower.patches(preprocessing(tower, options).size)
    sequence = patches + tower.class_tokens
    rows = patches + (tower.class_tokens if tower.tokens == "all" else 0)
    layers = tower.layers
    if tower.select_layer is not None:
        layers = tower.select_layer % (tower.layers + 1)
    projector = sum(
        math.prod(shape)
        for shape in projector_shapes(options, tower.width, language_width).values()
        if len(shape) > 1
    )
    height, across = tower.patch_size
    embedder = 3 * height * across * tower.width
    met = patches * embedder + sequence * _layers(tower, layers)
    return (
        FlopsEstimate(
            component="encoder",
            weight_matmul=2.0 * pictures * met,
            # Scores, and values weighted by them.
            activation_matmul=2.0 * pictures * sequence**2 * layers * 2 * tower.width,
        ),
        FlopsEstimate(component="projector", weight_matmul=2.0 * pictures * rows * projector),
    )


def _layers(tower: Architecture, read: int) -> int:
    """Weights of the matrices of the first layers; where the tensors are not known, of as many
    transformer layers of this width."""
    shapes = tensor_shapes(tower)
    if shapes is None:
        return read * layer_parameters(tower)
    return sum(
        math.prod(shape)
        for name, shape in shapes.items()
        if len(shape) == 2 and _layer_of(name, tower.layers) < read
    )


def _layer_of(name: str, layers: int) -> int:
    """The number of a tensor's layer; of one that belongs to none (a table of positions, a pooling
    head), the number of layers."""
    return next((int(word) for word in name.split(".") if word.isdigit()), layers)
