"""Adapters in checkpoints: by names and shapes that no grid changes.

A part's own ``sharded_state_dict`` says how its weights lie on ranks, in pieces where tp divides
parts of one weight apart (Mamba's input projection, gated feed-forward layers). It is asked once
more with the adapter's divided matrix in the weight's place, which lies as the weight does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory

from mimo_plugin_lora.layers import copied_of, divided_of, tp_of
from mimo_plugin_lora.names import numbered, split_key

Layers = Mapping[str, Any]
"""Adapted layers by their paths in the part on this rank."""


def with_adapters(
    state: dict[str, Any], layers: Layers, prefix: str, ask: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """The state of a part with its adapters.

    Args:
        state: What the part itself says.
        layers: Those that are adapted.
        prefix: Begins the keys of ``state``.
        ask: Asks the part again.
    """
    with _divided_in_place(layers):
        divided = ask()
    for path, layer in layers.items():
        leaf, other = ("lora_a", "lora_b") if layer.lora_kind == "row" else ("lora_b", "lora_a")
        entry = _renamed(divided[f"{prefix}{path}.weight"], leaf)
        state[f"{prefix}{path}.{leaf}"] = entry
        state[f"{prefix}{path}.{other}"] = _whole(layer, first_of(entry), leaf, other)
    return state


def first_of(entry: ShardedTensor | ShardedTensorFactory) -> ShardedTensor:
    """The tensor, or the first of the pieces that are made of it."""
    return entry if isinstance(entry, ShardedTensor) else next(_tensors(entry.build()))


def index_of(tensor: ShardedTensor) -> tuple[int, ...]:
    """Its place on the axes on which megatron stacks layers and experts."""
    return tuple(tensor.global_offset[: tensor.prepend_axis_num])


def _tensors(built: Any) -> Iterator[ShardedTensor]:
    if isinstance(built, ShardedTensor):
        yield built
        return
    for value in built.values() if isinstance(built, dict) else built:
        yield from _tensors(value)


@contextmanager
def _divided_in_place(layers: Layers) -> Iterator[None]:
    """Under the weight's name and no other: some parts tell their parameters apart by identity."""
    kept = {path: dict(layer._parameters) for path, layer in layers.items()}
    try:
        for layer in layers.values():
            divided = divided_of(layer, layer.lora_kind)
            del layer._parameters["lora_a"], layer._parameters["lora_b"]
            layer._parameters["weight"] = divided
        yield
    finally:
        for path, layer in layers.items():
            layer._parameters.clear()
            layer._parameters.update(kept[path])


def _renamed(
    entry: ShardedTensor | ShardedTensorFactory, leaf: str
) -> ShardedTensor | ShardedTensorFactory:
    """The entry of a weight as that of the matrix in its place, stacked on nothing."""
    split = split_key(entry.key)
    assert split is not None, entry.key
    key = f"{split[0]}.{leaf}{split[1]}"
    if isinstance(entry, ShardedTensor):
        return _alone(replace(entry, key=key), leaf)
    build = entry.build_fn

    def build_alone(*arguments: Any) -> list[ShardedTensor]:
        built = build(*arguments)
        assert isinstance(built, list), type(built)
        return [_alone(tensor, leaf) for tensor in built]

    return replace(entry, key=key, build_fn=build_alone)


def _alone(tensor: ShardedTensor, leaf: str) -> ShardedTensor:
    """A tensor that is stacked with others, with its place in its key instead: only some of the
    layers may have adapters."""
    axes = tensor.prepend_axis_num
    split = split_key(tensor.key, leaf)
    assert split is not None, tensor.key
    fragments = tensor.axis_fragmentations
    return replace(
        tensor,
        key=f"{numbered(split[0], index_of(tensor))}.{leaf}{split[1]}",
        global_shape=tensor.global_shape[axes:],
        global_offset=tensor.global_offset[axes:],
        axis_fragmentations=None if fragments is None else fragments[axes:],
        prepend_axis_num=0,
    )


def _whole(layer: Any, divided: ShardedTensor, leaf: str, other: str) -> ShardedTensor:
    """The matrix that every tp rank has; ranks that hold copies of the divided one number them."""
    matrix = copied_of(layer, layer.lora_kind)
    split = split_key(divided.key, leaf)
    assert split is not None, divided.key
    first, number, last = divided.replica_id
    size, rank = tp_of(layer)
    return ShardedTensor(
        key=f"{split[0]}.{other}",
        data=matrix,
        dtype=matrix.dtype,
        local_shape=tuple(matrix.shape),
        global_shape=tuple(matrix.shape),
        global_offset=(0, 0),
        axis_fragmentations=(1, 1),
        replica_id=(first, rank if size > 1 else number, last),
    )
