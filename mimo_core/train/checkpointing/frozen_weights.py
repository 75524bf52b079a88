"""Weights that are read again from elsewhere, in the state that megatron saves and loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import (
    ShardedBase,
    ShardedTensor,
    ShardedTensorFactory,
)

from mimo_core.weights.load import sharded_tensors

MODEL = "model"
"""Of the state: the model's own."""


def split(
    state: Mapping[str, Any], elsewhere: Callable[[str], bool], *, learning: bool
) -> tuple[dict[str, Any], dict[str, ShardedBase]]:
    """The state without the model's weights that are elsewhere; and those, by their names in it.

    Args:
        state: Of this rank, about to be saved or loaded.
        elsewhere: Tells of a checkpoint's key.
        learning: Weights that learn may be elsewhere too.
    """
    apart = {
        name: entry
        for name, entry in state[MODEL].items()
        if isinstance(entry, ShardedTensor | ShardedTensorFactory)
        and (learning or _is_frozen(entry.data))
        and all(elsewhere(tensor.key) for tensor in sharded_tensors({name: entry}))
    }
    kept = {name: entry for name, entry in state[MODEL].items() if name not in apart}
    return {**state, MODEL: kept}, apart


def shapes_of(apart: Mapping[str, ShardedBase]) -> dict[str, dict[str, Any]]:
    """Global ``shape`` and ``dtype`` of some weights, by the keys of checkpoints."""
    return {
        tensor.key: {"shape": list(tensor.global_shape), "dtype": str(tensor.dtype)[6:]}
        for tensor in sharded_tensors(apart)
    }


def _is_frozen(data: Any) -> bool:
    return isinstance(data, torch.nn.Parameter) and not data.requires_grad
