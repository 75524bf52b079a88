"""Ranks meet: the same plan on all of them, before any process group is made."""

from __future__ import annotations

import datetime
import difflib

import attrs
import torch.distributed as dist

from mimo_core.errors import RecipeError
from mimo_core.launch.rank_env import Rank
from mimo_core.planning.plan import Plan
from mimo_core.platforms.base import RankPlatform
from mimo_core.recipe import dump

_SHOWN = 10
"""Lines of a recipe that a message shows."""


@attrs.frozen(kw_only=True)
class Rendezvous:
    """All ranks have appeared and run the same thing."""

    rank: Rank
    store: dist.Store
    timeout: datetime.timedelta

    def open(self, platform: RankPlatform) -> None:
        """Make the default process group."""
        dist.init_process_group(
            platform.backend,
            device_id=platform.eager_device,
            store=dist.PrefixStore("default", self.store),
            rank=self.rank.rank,
            world_size=self.rank.world_size,
            timeout=self.timeout,
        )


def check_same_recipe(
    plan: Plan, rank: Rank, store: dist.Store, timeout: datetime.timedelta
) -> Rendezvous:
    """Compare what the ranks are about to run. Called by all ranks, before any process group.

    Args:
        plan: This rank's plan.
        rank: This rank.
        store: Where the ranks met.
        timeout: Of collectives afterwards.

    Raises:
        RecipeError: ranks have other recipes; says in which lines.
    """
    mine = dump(plan.recipe)
    if rank.rank == 0:
        store.set("mimo/recipe", mine)
    first = store.get("mimo/recipe").decode()
    if first != mine:
        lines = difflib.unified_diff(first.splitlines(), mine.splitlines(), n=0, lineterm="")
        differ = [line for line in lines if line[0] in "+-" and line[:3] not in ("+++", "---")]
        raise RecipeError(
            "\n".join(
                [
                    f"rank {rank.rank} (+) does not run the recipe of rank 0 (-):",
                    *(f"  {line}" for line in differ[:_SHOWN]),
                    "give all ranks the same file and the same overrides",
                ]
            ),
            code="launch.other-recipe",
            rank=rank.rank,
            lines=tuple(differ),
        )
    return Rendezvous(rank=rank, store=store, timeout=timeout)
