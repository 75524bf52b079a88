"""Saving: around the stock save, so that a checkpoint is complete or is none."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from mimo_core.checkpoint.directory import TRACKER, announce, clear
from mimo_core.checkpoint.manifest import (
    FORMAT,
    FileFacts,
    Manifest,
    file_facts,
    files_of,
    write_manifest,
)
from mimo_core.platforms.base import RankPlatform
from mimo_core.train.checkpointing.frozen_weights import shapes_of, split
from mimo_core.train.checkpointing.rng_state import random_state, write_random_state
from mimo_core.utils.activity import CURRENT
from mimo_core.utils.safe_files import remove_link
from mimo_core.weights.frozen_sources import WeightSources

COMMON = "common_state/shard_0_1"
"""Megatron's key of what is no tensor and alike on all ranks; it loads that by itself."""


class CheckpointSaver:
    """Saves checkpoints of one run on this rank."""

    def __init__(
        self,
        *,
        facts: Mapping[str, Any],
        run: str,
        platform: RankPlatform,
        loaded: int | None,
        check: Callable[[int], None],
        origins: WeightSources | None = None,
    ) -> None:
        """
        Args:
            facts: Those of the run (``facts_to_keep``).
            run: Identity of the run.
            platform: This rank's machine.
            loaded: Iteration of the complete checkpoint of this folder that the run goes on from.
            check: Called by all ranks with the iteration before it is saved; raises where it must
                not be.
            origins: Where weights that do not learn are read again; without it, they are saved.
        """
        self._facts = facts
        self._run = run
        self._platform = platform
        self._loaded = loaded
        self._check = check
        self._origins = origins

    def __call__(self, stock: Callable[..., Any]) -> Callable[..., Any]:
        """Stands around ``dist_checkpointing.save``: before megatron's tracker is written."""

        def save(
            state: dict[str, Any],
            checkpoint: str,
            *args: Any,
            content_metadata: Mapping[str, Any],
            **kwargs: Any,
        ) -> None:
            """Called by all ranks.

            Raises:
                OSError: the checkpoint could not be written; it is none then.
            """
            folder, iteration = Path(checkpoint), state["iteration"]
            if iteration == self._loaded:
                print(f"{folder} is complete, and nothing was trained since", flush=True)
                return
            self._check(iteration)
            mine = random_state(self._platform)
            state, left_out = self._left_out(state)
            if dist.get_rank() == 0:
                clear(folder)
                remove_link(folder.parent / TRACKER)  # stock code would write to its target
            dist.barrier()
            with CURRENT.during("save"):
                stock(state, checkpoint, *args, content_metadata=content_metadata, **kwargs)
            names: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(names, write_random_state(folder, dist.get_rank(), mine))
            due: list[str] = []
            if dist.get_rank() == 0:
                metadata = FileSystemReader(folder).read_metadata()
                due = _seen(folder, metadata, names)
            files = _described(folder, due)
            if dist.get_rank() == 0:
                announce(folder.parent, iteration)
                write_manifest(
                    folder,
                    Manifest(
                        format=FORMAT,
                        run=self._run,
                        iteration=iteration,
                        consumed_samples=state["args"].consumed_train_samples,
                        optimizer=content_metadata["distrib_optim_sharding_type"],
                        files=files,
                        random_states=tuple(names),
                        **_keys(metadata),
                        **left_out,
                        **self._facts,
                    ),
                )
            self._loaded = None

        return save

    def _left_out(self, state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What is saved, and on rank 0 what the manifest tells of the rest. Called by all ranks."""
        if self._origins is None:
            return state, {}
        state, apart = split(state, self._origins.has, learning=False)
        found: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(found, shapes_of(apart))
        if dist.get_rank():
            return state, {}
        return state, self._origins.facts(
            {key: told for each in found for key, told in each.items()}
        )


def _described(folder: Path, names: list[str]) -> dict[str, FileFacts]:
    """Size and checksum of each file. Called by all ranks; each reads what it wrote itself, as
    that is still in memory.

    Args:
        folder: The checkpoint.
        names: Paths in it, at rank 0.

    Raises:
        OSError: a file cannot be read.
    """
    box: list[Any] = [names]
    dist.broadcast_object_list(box)
    size, rank = dist.get_world_size(), dist.get_rank()
    mine = [name for number, name in enumerate(box[0]) if _writer(name, number, size) == rank]
    found: list[Any] = [None] * size
    dist.all_gather_object(found, file_facts(folder, mine))
    facts = {name: one for each in found for name, one in each.items()}
    return {name: facts[name] for name in box[0]}


def _writer(name: str, number: int, world_size: int) -> int:
    """The rank that wrote a file, by its name; of other files any rank, by their number."""
    written = re.fullmatch(r"(?:__|random-)([0-9]+)(?:_[0-9]+\.distcp|\.json)", name)
    return (number if written is None else int(written[1])) % world_size


def _seen(folder: Path, metadata: Metadata, random_states: list[str]) -> list[str]:
    """The files of the checkpoint.

    Raises:
        OSError: a file that some rank wrote is not to be seen from here.
    """
    there = files_of(folder)
    assert metadata.storage_data is not None
    due = {place.relative_path for place in metadata.storage_data.values()} | {*random_states}
    lost = sorted(due - {*there})
    if lost:
        raise OSError(
            f"rank 0 does not see {len(lost)} files of {folder} that others wrote, {lost[0]} for "
            "one; all ranks must see the same folder"
        )
    return there


def _keys(metadata: Metadata) -> dict[str, Any]:
    """The manifest's ``tensors`` and ``objects``."""
    held = metadata.state_dict_metadata
    return {
        "tensors": {
            key: {"shape": list(facts.size), "dtype": str(facts.properties.dtype)[6:]}
            for key, facts in sorted(held.items())
            if isinstance(facts, TensorStorageMetadata)
        },
        "objects": tuple(
            key
            for key, facts in sorted(held.items())
            if not isinstance(facts, TensorStorageMetadata) and key != COMMON
        ),
    }
