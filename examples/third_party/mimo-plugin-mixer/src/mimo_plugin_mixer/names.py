"""Names (timm's) and shapes of the tensors, without torch."""

from __future__ import annotations

from collections.abc import Iterator

from mimo_core import CheckpointTensor, ParamMapping
from mimo_plugin_mixer.options import Options

Tensor = tuple[str, tuple[int, ...]]


def tower(options: Options) -> Iterator[Tensor]:
    """All tensors of the mixer."""
    width, side = options.hidden_size, options.patch_size
    yield "stem.proj.weight", (width, 3, side, side)
    yield "stem.proj.bias", (width,)
    for layer in range(options.layers):
        block = f"blocks.{layer}."
        yield from _norm(f"{block}norm1", width)
        yield from _mlp(f"{block}mlp_tokens", options.patches, options.patch_inner)
        yield from _norm(f"{block}norm2", width)
        yield from _mlp(f"{block}mlp_channels", width, options.channel_inner)
    yield from _norm("norm", width)


def projector(options: Options, language_width: int) -> Tensor:
    """The core's affine projector."""
    return "projector.weight", (language_width, options.hidden_size)


def rules(options: Options, language_width: int) -> Iterator[ParamMapping]:
    """Keys of a checkpoint are the names of the file."""
    for name, shape in tower(options):
        stored = CheckpointTensor(key=name, shape=shape)
        yield ParamMapping(component="encoder", tensors=(stored,), files={name: shape})
    name, shape = projector(options, language_width)
    stored = CheckpointTensor(key="encoder.weight", shape=shape)
    yield ParamMapping(component="projector", tensors=(stored,), files={name: shape})


def _norm(name: str, width: int) -> Iterator[Tensor]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _mlp(name: str, width: int, inner: int) -> Iterator[Tensor]:
    yield f"{name}.fc1.weight", (inner, width)
    yield f"{name}.fc1.bias", (inner,)
    yield f"{name}.fc2.weight", (width, inner)
    yield f"{name}.fc2.bias", (width,)
