"""Ranks agree on what they read before they train: what differs would only show as wrong losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.distributed as dist

from mimo_core.errors import MimoError
from mimo_core.planning.plan import Plan
from mimo_core.weights.compare import DirectoryMatch
from mimo_core.weights.frozen_sources import directory_digest

_NAMED = 8
"""Ranks of one side that a message names."""


def compare_samples(plan: Plan, splits: Mapping[str, tuple[int, str | None]]) -> None:
    """Compare what every rank is about to read. Called by all ranks.

    Args:
        plan: What to run.
        splits: Length and digest of each split on this rank.

    Raises:
        MimoError: datasets or tokenizers differ; says which ranks have what. Raised on all ranks.
    """
    mine = {f"{split} split": facts for split, facts in splits.items()}
    mine["tokenizer"] = (plan.graph.tokenizer.size, plan.graph.tokenizer.digest)
    told = _gathered(mine)
    for what in mine:
        _agree(plan, what, [one[what] for one in told], _entries)


def compare_directories(plan: Plan, found: Mapping[str, DirectoryMatch]) -> None:
    """Compare the directories that modules begin with, or read again. Called by all ranks.

    Each machine may have its own directory under one path. A rank looks at those of its modules;
    rank 0 at all, as what it sees there is compared with checkpoints and told in them.

    Args:
        plan: What to run.
        found: The directories by module, as this rank sees them.

    Raises:
        MimoError: some hold other weights; says which ranks have what. Raised on all ranks.
    """
    rank = dist.get_rank()
    ours = found if rank == 0 else plan.layout.modules_on_rank(rank)
    mine = {name: directory_digest(held) for name, held in found.items() if name in ours}
    told = _gathered(mine)
    for name, held in found.items():
        what = f"weights of {name} in {held.directory}"
        _agree(plan, what, [one.get(name) for one in told], lambda digest: f"digest {digest[:12]}")


def _gathered(mine: dict[str, Any]) -> list[Any]:
    told: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(told, mine)
    return told


def _agree(plan: Plan, what: str, told: Sequence[Any], shown: Callable[[Any], str]) -> None:
    """Raise where ranks differ; ``None`` is told by those that read nothing of it."""
    sides: dict[Any, list[str]] = {}
    for rank, value in enumerate(told):
        if value is not None:
            sides.setdefault(value, []).append(plan.layout.rank_label(rank))
    if len(sides) > 1:
        each = (f"{_few(labels)} have {shown(value)}" for value, labels in sides.items())
        raise MimoError(
            f"ranks do not read the same: of the {what}, {', but '.join(each)}; give all machines "
            "the same files",
            code="launch.other-files",
            what=what,
        )


def _few(labels: Sequence[str]) -> str:
    more = len(labels) - _NAMED
    return ", ".join(labels[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _entries(value: tuple[int, str | None]) -> str:
    size, digest = value
    return f"{size} entries" + (f" (digest {digest[:12]})" if digest else "")
