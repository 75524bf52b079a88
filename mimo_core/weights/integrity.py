"""Whether the files of a checkpoint are what was saved, before anything in them is read."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mimo_core.checkpoint.manifest import (
    DAMAGED,
    IncompleteCheckpointError,
    Manifest,
    damaged_files,
    read_manifest,
)
from mimo_core.errors import CheckpointError
from mimo_core.weights.frozen_sources import FROZEN, origins_of


def checkpoints_read(folder: Path, saved: Manifest) -> list[tuple[Path, Manifest]]:
    """A checkpoint, and those that it reads frozen weights in, each with its manifest.

    Raises:
        CheckpointError: one of those is gone, incomplete or damaged.
    """
    found = [(folder, saved)]
    for origin in origins_of(saved):
        if origin.kind == "checkpoint":
            try:
                found.append((Path(origin.path), read_manifest(Path(origin.path))))
            except IncompleteCheckpointError as why:
                raise CheckpointError(
                    f"{origin.path}, which holds frozen weights of {folder}, is no complete "
                    f"checkpoint: {why}; put it back there",
                    code=FROZEN,
                    place=origin.path,
                ) from None
    return found


def share_of(folder: Path, saved: Manifest, rank: int, world_size: int) -> list[str]:
    """Of all files that are read with a checkpoint, those that a rank compares: a line for each
    that is not what was saved.

    Args:
        folder: The checkpoint.
        saved: Its manifest.
        rank: From 0.
        world_size: Ranks that share the files, alike in size.

    Raises:
        CheckpointError: a checkpoint that frozen weights are read in is gone.
    """
    damaged = []
    for place, manifest in checkpoints_read(folder, saved):
        largest_first = sorted(manifest.files, key=lambda name: -manifest.files[name]["bytes"])
        for line in damaged_files(place, manifest, largest_first[rank::world_size]):
            damaged.append(f"{place} is damaged: {line}")
    return damaged


def check_files(folder: Path, saved: Manifest) -> None:
    """Compare all files that are read with a checkpoint, in this process.

    Raises:
        CheckpointError: one is not what was saved.
    """
    threads = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        shares = pool.map(lambda number: share_of(folder, saved, number, threads), range(threads))
        damaged = [line for share in shares for line in share]
    if damaged:
        raise CheckpointError("\n".join(damaged), code=DAMAGED, checkpoint=str(folder))
