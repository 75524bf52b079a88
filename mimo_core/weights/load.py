"""Copies the weights of directories into this rank's part of a model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from safetensors import safe_open
from torch import Tensor

from mimo_core.checkpoint.keys import key_of, module_prefix, part_prefix
from mimo_core.checkpoint.reader import Checkpoint
from mimo_core.errors import PluginError
from mimo_core.plugins.weight_map import ParamMapping, ParamMappings
from mimo_core.weights.compare import DirectoryMatch

Place = tuple[str, tuple[int, ...]]
"""A whole tensor of a checkpoint: its key, and its place on the axes it is stacked on."""


@torch.no_grad()
def load_weights(
    state: Mapping[str, Any], maps: Mapping[str, ParamMappings], found: Mapping[str, DirectoryMatch]
) -> frozenset[str]:
    """Copy into the tensors of this rank what it holds of them.

    A tensor is read whole, converted, and let go when this rank's slice is copied; nothing is
    read of layers and experts that are other ranks'. Called by every rank, when the model is
    wrapped and before there is an optimizer; no rank waits for another.

    Args:
        state: The model's sharded state dict; its tensors are written to.
        maps: By module.
        found: The directories by module.

    Returns:
        The keys of the tensors that were written to.

    Raises:
        ValueError: a plugin's map lacks a tensor of the model, or tells another shape.
    """
    sources = {name: Source(name, maps[name], held) for name, held in found.items()}
    loaded = set()
    for sharded in sharded_tensors(state):
        name = next((name for name in sources if sharded.key.startswith(module_prefix(name))), None)
        if name is None:
            continue
        whole = sources[name].whole(sharded)
        if whole is not None:
            sharded.data.copy_(whole[slice_of(sharded)].reshape(sharded.data.shape))
            loaded.add(sharded.key)
    return frozenset(loaded)


@torch.no_grad()
def load_left_out(state: Mapping[str, Any], checkpoint: Checkpoint, keys: Collection[str]) -> None:
    """Copy into the tensors of this rank what a checkpoint holds of them. Called by every rank; no
    rank waits for another.

    Args:
        state: The model's sharded state dict; its tensors are written to.
        checkpoint: Which holds them.
        keys: Of the tensors that are wanted.
    """
    for sharded in sharded_tensors(state):
        if sharded.key in keys:
            sizes = (*[1] * sharded.prepend_axis_num, *sharded.local_shape)
            part = checkpoint.part(sharded.key, sharded.global_offset, sizes)
            sharded.data.copy_(part.reshape(sharded.data.shape))


def sharded_tensors(state: Mapping[str, Any]) -> Iterator[ShardedTensor]:
    """All tensors of a sharded state dict; a factory's are views of its tensor."""
    for item in state.values():
        value = item.build() if isinstance(item, ShardedTensorFactory) else item
        if isinstance(value, ShardedTensor):
            yield value
        elif isinstance(value, Mapping):
            yield from sharded_tensors(value)
        elif isinstance(value, list | tuple):
            yield from sharded_tensors(dict(enumerate(value)))


class Source:
    """The tensors of one module, made from the files."""

    def __init__(self, module: str, weights: ParamMappings, found: DirectoryMatch) -> None:
        self._module = module
        self._found = found
        self._rules: dict[Place, tuple[ParamMapping, int]] = {
            (key_of(module, rule, stored), stored.index): (rule, at)
            for rule in weights.rules
            for at, stored in enumerate(rule.tensors)
        }
        # Parts that the map says nothing of begin fresh, as those that the directory lacks.
        self._loaded = tuple(part_prefix(module, part) for part in found.prefixes)
        self._files: dict[Path, Any] = {}
        self._latest: tuple[ParamMapping, Sequence[Tensor | None]] | None = None

    def whole(self, sharded: ShardedTensor) -> Tensor | None:
        """The whole tensor of which a rank holds a slice; ``None`` of what begins fresh."""
        if not sharded.key.startswith(self._loaded):
            return None
        place = (sharded.key, tuple(sharded.global_offset[: sharded.prepend_axis_num]))
        whole = self.stored(place)
        if whole is None:
            return None
        due = tuple(sharded.global_shape[sharded.prepend_axis_num :])
        if tuple(whole.shape) != due:
            raise PluginError(
                f"module {self._module!r}: {place[0]} is {list(due)}, but its plugin's weight_map "
                f"makes {list(whole.shape)}; tell the plugin's authors",
                code="plugin.wrong-answer",
                module=self._module,
                hook="param_mappings",
                key=place[0],
                shape=tuple(whole.shape),
                expected=due,
            )
        return whole

    def stored(self, place: Place) -> Tensor | None:
        """A whole tensor of a checkpoint; ``None`` where it is in no file."""
        if place not in self._rules:
            raise PluginError(
                f"module {self._module!r} has {place[0]} {list(place[1])}, of which its plugin's "
                "weight_map tells no name; tell the plugin's authors",
                code="plugin.wrong-answer",
                module=self._module,
                hook="param_mappings",
                key=place[0],
            )
        rule, at = self._rules[place]
        return self._converted(rule)[at]

    def _converted(self, rule: ParamMapping) -> Sequence[Tensor | None]:
        """All tensors of a rule; those of the latest are kept, as they are asked for in a row."""
        if self._latest is None or self._latest[0] is not rule:
            self._latest = None
            self._latest = rule, rule.load([self._read(rule, name) for name in rule.files])
        return self._latest[1]

    def _read(self, rule: ParamMapping, name: str) -> Tensor:
        entry = self._found.entry(rule, name)
        if entry.file not in self._files:
            # Opened once: a file of thousands of tensors has a long header.
            self._files[entry.file] = safe_open(entry.file, framework="pt")
        tensor: Tensor = self._files[entry.file].get_tensor(
            self._found.prefixes[rule.component] + name
        )
        return tensor


def slice_of(sharded: ShardedTensor) -> tuple[slice, ...]:
    """Where a rank's part is in the whole tensor, without stacked axes."""
    first = sharded.prepend_axis_num
    offsets = sharded.global_offset[first:]
    return tuple(
        slice(offset, offset + length)
        for offset, length in zip(offsets, sharded.local_shape, strict=True)
    )
