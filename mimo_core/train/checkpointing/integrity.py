"""Checkpoints are what was saved: their checksums are compared before anything of them is read."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from megatron.core.dist_checkpointing.core import CONFIG_FNAME

from mimo_core.checkpoint.directory import LatestCheckpoint, fallback_hint
from mimo_core.checkpoint.manifest import DAMAGED, damaged, unreadable
from mimo_core.checkpoint.restricted_unpickler import FOREIGN
from mimo_core.errors import CheckpointError
from mimo_core.utils.regular_files import UnreadableFile, read_json
from mimo_core.weights.integrity import share_of

_BACKEND = "torch_dist"
"""The format that Megatron saves tensors in."""
_OLD_FORMAT = "mp_rank_00*/model_optim_rng.pt"
"""Files of Megatron's old format. Megatron takes one for the checkpoint if it is there."""


def compare_checksums(source: LatestCheckpoint) -> None:
    """Compare every file of the checkpoint that is to be loaded, and of those that it reads frozen
    weights in. Each rank reads its share of the files. Called by all ranks.

    Raises:
        CheckpointError: a file holds other bytes than were saved; the same on all ranks.
    """
    if source.manifest is None:
        return
    found: list[Any] = [None] * dist.get_world_size()
    mine = share_of(source.path, source.manifest, dist.get_rank(), dist.get_world_size())
    dist.all_gather_object(found, mine)
    lines = [line for each in found for line in each]
    if lines:
        back = fallback_hint(source.checkpoints, source.manifest.iteration)
        message = "\n".join([*lines, back])
        raise CheckpointError(message, code=DAMAGED, checkpoint=str(source.path))


def check_format(source: LatestCheckpoint) -> None:
    """Check that Megatron will read a checkpoint by the format that this program saves, whatever
    its files are. Called by all ranks.

    Raises:
        CheckpointError: Megatron's description of the format is another one, or cannot be read;
            or there is a file of Megatron's old format.
    """
    if source.manifest is None:
        return
    file = source.path / CONFIG_FNAME
    try:
        found = read_json(file)
    except UnreadableFile as error:
        raise unreadable(file, error) from error
    except (OSError, ValueError) as error:
        message = f"{file} holds no description of a checkpoint ({error})"
        raise damaged(message, source.path, CONFIG_FNAME) from error
    backend = found.get("sharded_backend") if isinstance(found, dict) else None
    if backend != _BACKEND:
        raise CheckpointError(
            f"{file} has sharded_backend {backend!r}, not {_BACKEND!r}",
            code="checkpoint.other-format",
            checkpoint=str(source.path),
            format=backend,
            expected=_BACKEND,
        )
    for old in sorted(source.path.glob(_OLD_FORMAT)):
        message = f"{old} is no file of a checkpoint of this program; remove it"
        raise CheckpointError(message, code=FOREIGN, file=str(old))
