"""A checkpoint of one kind of machine is loaded on another."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor

from mimo_core.errors import CheckpointError
from mimo_core.train.checkpointing.load_validation import CheckpointValidator

from ..helpers.problems import refused
from ..unit.test_checkpoint_directory import manifest

WEIGHT, OF_GPUS, OF_CPUS = "language.a.weight", "language.norm", "language.linear"


@pytest.fixture(autouse=True)
def world() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def extra(layer: str) -> ShardedObject:
    return ShardedObject(f"{layer}._extra_state", None, (1,), (0,))


def load(saved: tuple[str, ...], wanted: tuple[ShardedObject, ...]) -> dict[str, Any]:
    """What megatron is asked for, of a checkpoint with these objects beside one weight."""
    shape = {"shape": [2], "dtype": "float32"}
    fitting = CheckpointValidator(
        manifest=manifest(4, tensors={WEIGHT: shape}, objects=saved),
        weights_only=False,
        differing=(),
        platform=cast(Any, SimpleNamespace(device=torch.device("cpu"))),
    )
    weight = ShardedTensor.from_rank_offsets(WEIGHT, torch.zeros(2))
    state = {"model": {WEIGHT: weight} | {one.key: one for one in wanted}}
    stock = fitting(lambda asked, _folder: asked)
    asked: dict[str, Any] = stock(state, "checkpoints/iter_0000004")["model"]
    return asked


def test_states_of_the_kernels_need_not_be_those_of_this_machine() -> None:
    """TransformerEngine's norms save an object that local norms have not, and the other way."""
    saved = (extra(OF_GPUS).unique_key, extra("language.both").unique_key)
    asked = load(saved, (extra(OF_CPUS), extra("language.both")))
    assert set(asked) == {WEIGHT, "language.both._extra_state"}


def test_other_objects_must_fit() -> None:
    keys = ("language.history/shard_0_1",)
    facts = {"checkpoint": "checkpoints/iter_0000004", "keys": keys}
    with refused("checkpoint.other-model", CheckpointError, **facts) as caught:
        load(keys, ())
    assert "the model has not language.history" in caught.value.text
    with refused("checkpoint.other-model", CheckpointError, **facts) as caught:
        load((), (ShardedObject("language.history", None, (1,), (0,)),))
    assert "the checkpoint lacks language.history" in caught.value.text
