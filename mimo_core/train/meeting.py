"""Ranks meet: the same plan on all of them, before any process group is made."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Mapping

import attrs
import torch.distributed as dist

from mimo_core.errors import PluginError
from mimo_core.plan import Plan
from mimo_core.rank import Rank
from mimo_core.recipe import dump


@attrs.frozen(kw_only=True)
class Meeting:
    """All ranks have appeared and run the same thing."""

    rank: Rank
    store: dist.Store
    timeout: datetime.timedelta
    plugins: Mapping[str, str]
    """Versions of the plugins, by name."""

    def open(self, backend: str) -> None:
        """Make the default process group."""
        dist.init_process_group(
            backend,
            store=dist.PrefixStore("default", self.store),
            rank=self.rank.rank,
            world_size=self.rank.world_size,
            timeout=self.timeout,
        )


def meet(plan: Plan, rank: Rank, store: dist.Store, timeout: datetime.timedelta) -> Meeting:
    """Compare what the ranks are about to run. Called by all ranks, before any process group.

    Args:
        plan: This rank's plan.
        rank: This rank.
        store: Where the ranks met.
        timeout: Of collectives afterwards.

    Raises:
        PluginError: ranks have other plugins, versions or recipes; says which.
    """
    plugins = plan.host.versions()
    mine = {
        "plugins": plugins,
        "digest": plan.host.digest(),
        "recipe": hashlib.sha256(dump(plan.recipe).encode()).hexdigest(),
    }
    if rank.rank == 0:
        store.set("mimo/plan", json.dumps(mine))
    first = json.loads(store.get("mimo/plan"))
    same_recipe = mine["recipe"] == first["recipe"]
    if first["digest"] != mine["digest"] or not same_recipe:
        differ = [] if same_recipe else ["another recipe"]
        if first["digest"] != mine["digest"]:
            differ.append(f"plugins {plugins} against {first['plugins']}")
        raise PluginError(
            f"rank {rank.rank} does not run what rank 0 runs: {' and '.join(differ)}; give all "
            "ranks the same recipe, and install the same versions on all machines"
        )
    return Meeting(rank=rank, store=store, timeout=timeout, plugins=plugins)
