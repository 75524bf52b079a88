"""Seeds of every module, from the run's seed and a stable hash of its rng prefix: the only seeding.

Nothing changes for a module when another is added, renamed or moved.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch
from megatron.core import tensor_parallel
from megatron.core.process_groups_config import ProcessGroupCollection


def stable_seed(seed: int, *names: object) -> int:
    """A seed in ``[0, 2**31)`` that depends on its arguments alone, on every machine."""
    text = "\0".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 2**31


def seed_module(
    seed: int, prefix: str, groups: ProcessGroupCollection, iteration: int | None = None
) -> None:
    """Seed this rank for its module: host libraries, the device, megatron's tracker.

    Data-parallel replicas get the same seed (their weights must agree), pipeline stages different
    ones, tensor- and expert-parallel ranks differ inside megatron's tracker.

    Args:
        seed: The run's seed.
        prefix: The module's rng prefix.
        groups: The module's groups on this rank.
        iteration: Where the module goes on in a grid that it had not before.
    """
    names = (prefix, groups.pp.rank(), *(() if iteration is None else (iteration,)))
    value = stable_seed(seed, *names)
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)
    tensor_parallel.model_parallel_cuda_manual_seed(
        value,
        tp_rank=groups.tp.rank(),
        ep_rank=groups.ep.rank(),
        etp_rank=groups.expt_tp.rank(),
    )
