"""Names and shapes of the tower's tensors and of the projector's in files, without torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimo_core import CheckpointTensor, MimoError, ModuleConfig, ParamMapping, ParamMappings
from mimo_plugin_hf_vision import families, whole
from mimo_plugin_hf_vision.architecture import Architecture, architecture
from mimo_plugin_hf_vision.files import find_weights, tensor_headers
from mimo_plugin_hf_vision.options import Options, options_of

if TYPE_CHECKING:
    from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
_FIRST = "embeddings."
"""Stands in names of every tower's first layer, behind the prefix that a whole model has."""


def weight_map(module: ModuleConfig) -> ParamMappings:
    """One rule a tensor: checkpoints have the names of the model's files.

    Raises:
        MimoError: of another family than SigLIP, CLIP, DINOv2, a directory without safetensors.
    """
    options = options_of(module)
    tower = architecture(options)
    shapes = tensor_shapes(tower)
    if shapes is None:
        raise MimoError(
            f"{tower.directory} has no safetensors, from which alone names of a "
            f"{tower.model_type!r} tower can be told; name a directory that has them under "
            "options.model",
            code="weights.not-found",
            directory=str(tower.directory),
        )
    assert module.language_width is not None
    return ParamMappings(
        rules=(*_tower(shapes), *_projector(options, tower, module.language_width)),
        foreign=families.FOREIGN if tower.model_type in families.TENSORS else {},
        config_mistakes=partial(_mistakes, tower, options),
        exported_config=_exported_config(tower),
        prefix="vision_model.",
        locate=partial(_locate, options),
    )


def _exported_config(tower: Architecture) -> dict[str, Any]:
    """The tower's own file, with the rows that are read where those are not its default."""
    config = {**tower.said, "model_type": tower.model_type}
    if tower.select_layer is not None:
        config[whole.LAYER] = tower.select_layer
    if tower.tokens == "all" and tower.class_tokens:
        config[whole.STRATEGY] = "full"
    return config


def _mistakes(tower: Architecture, options: Options, held: Mapping[str, Any]) -> Iterator[str]:
    """Where a file is of another tower, or of a model that reads other rows of it.

    Args:
        held: The whole file.
    """
    file = Path("config.json")
    try:
        part, rows = whole.tower_of(file, held), whole.rows_of(file, held)
        layer = whole.select_layer(file, rows)
        tokens = whole.tokens(file, rows, tower.class_tokens)
    except MimoError as error:
        yield str(error).removeprefix(f"{file} ")
        return
    if part.model_type != tower.model_type:
        yield f"says {part.at}model_type {part.model_type!r}, but the tower is {tower.model_type!r}"
        return
    yield from whole.unlike_tower(part.said, tower.said, tower.model_type, part.at, options.model)
    states = tower.layers + 1
    if layer is not None and (tower.select_layer is None or (layer - tower.select_layer) % states):
        ours = "the tower's output" if tower.select_layer is None else tower.select_layer
        yield f"has {whole.LAYER} {layer}, but here it is {ours}: set the option select_layer"
    if tokens is not None and tokens != tower.tokens and tower.class_tokens:
        yield f"has {whole.STRATEGY} {rows[whole.STRATEGY]!r}: set the option tokens={tokens}"
    if options.projector == "mlp":
        yield from whole.unlike_projector(rows)


def _locate(options: Options, source: str) -> Path:
    """The revision is that of ``options.model``; weights of another name have their own."""
    return find_weights(source, options.revision if source == options.model else None)


def tensor_shapes(tower: Architecture) -> Shapes | None:
    """The tower's tensors by their names in files; ``None`` where that cannot be told."""
    family = families.TENSORS.get(tower.model_type)
    if family is not None:
        return dict(family(tower.config))
    held = _headers(tower.directory)
    prefixes = {name[: name.index(_FIRST)] for name in held if _FIRST in name}
    prefix = min(prefixes, key=lambda prefix: ("vision" not in prefix, prefix), default="")
    return {
        name.removeprefix(prefix): shape for name, shape in held.items() if name.startswith(prefix)
    } or None


def unread(tower: Architecture, options: Options, shapes: Shapes) -> Shapes:
    """Those of the tower's tensors that no row depends on, as far as that is known."""
    kind, layer = tower.model_type, tower.select_layer
    starts = list(families.UNREAD.get(kind, ()))
    if layer is not None and kind in families.TENSORS:
        starts += [families.FINAL_NORM[kind]] if kind in families.FINAL_NORM else []
        first = layer % (tower.layers + 1)
        word = "layer" if kind == "dinov2" else "layers"
        starts += [f"encoder.{word}.{number}." for number in range(first, tower.layers)]
    return {name: shape for name, shape in shapes.items() if name.startswith(tuple(starts))}


def projector_shapes(options: Options, width: int, language_width: int) -> Shapes:
    """The projector's tensors by the names of LLaVA's."""
    name = "multi_modal_projector.linear_"
    if options.projector == "affine":
        return {f"{name}1.weight": (language_width, width), f"{name}1.bias": (language_width,)}
    inner = options.projector_hidden_size or language_width
    return {
        f"{name}1.weight": (inner, width),
        f"{name}1.bias": (inner,),
        f"{name}2.weight": (language_width, inner),
        f"{name}2.bias": (language_width,),
    }


def parameters(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def _projector(
    options: Options, tower: Architecture, language_width: int
) -> Iterator[ParamMapping]:
    ours = {"1": "encoder.linear_fc1", "2": "encoder.linear_fc2"}
    if options.projector == "affine":
        ours = {"1": "encoder"}
    for name, shape in projector_shapes(options, tower.width, language_width).items():
        layer, kind = name.rpartition("_")[2].split(".")
        stored = CheckpointTensor(key=f"{ours[layer]}.{kind}", shape=shape)
        yield ParamMapping(component="projector", tensors=(stored,), files={name: shape})


def _tower(shapes: Shapes) -> Iterator[ParamMapping]:
    for name, shape in shapes.items():
        if ".weights_in." in name:
            yield _gated(name, shape)
            continue
        stored = CheckpointTensor(key=name, shape=shape)
        yield ParamMapping(component="encoder", tensors=(stored,), files={name: shape})


def _gated(name: str, shape: tuple[int, ...]) -> ParamMapping:
    """DINOv2's SwiGLU: transformers cuts the file's tensor in two, of gate and value."""

    def load(files: Sequence[Tensor]) -> Sequence[Tensor]:
        return [*files[0].chunk(2)]

    def save(stored: Sequence[Tensor]) -> Sequence[Tensor]:
        import torch

        return [torch.cat(list(stored))]

    half = (shape[0] // 2, *shape[1:])
    return ParamMapping(
        component="encoder",
        tensors=tuple(
            CheckpointTensor(key=name.replace("weights_in", into), shape=half)
            for into in ("gate_proj", "up_proj")
        ),
        files={name: shape},
        load=load,
        save=save,
    )


@cache
def _headers(directory: Path) -> Shapes:
    """Names and shapes of all safetensors of a directory, from the files' headers.

    Raises:
        MimoError: a file is damaged.
    """
    found: Shapes = {}
    for path in sorted(directory.glob("*.safetensors")):
        found |= tensor_headers(path)
    return found
