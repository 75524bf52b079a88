"""Ranks meet: the same plan on all of them, before any process group is made."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Mapping

import torch.distributed as dist
from torch.distributed import rendezvous

from mimo_core.errors import PluginError
from mimo_core.plan import Plan
from mimo_core.rank import Rank
from mimo_core.recipe import dump


def meet(
    plan: Plan, rank: Rank, backend: str, note: str, timeout: datetime.timedelta
) -> tuple[str, Mapping[str, str]]:
    """Make the default process group after all ranks were found to run the same thing.

    Args:
        plan: This rank's plan.
        rank: This rank.
        backend: ``gloo`` or ``nccl``.
        note: What rank 0 tells all others (the run folder).
        timeout: For ranks to appear, and of collectives afterwards.

    Returns:
        Rank 0's note, and the plugins' versions.

    Raises:
        PluginError: ranks have other plugins, versions or recipes; says which.
    """
    store, _, _ = next(iter(rendezvous("env://", rank.rank, rank.world_size, timeout=timeout)))
    store.set_timeout(timeout)
    names = sorted({module.plugin for module in plan.graph.modules.values()})
    wrappers = [record.name for record in plan.host.records if record.state == "usable"]
    names = sorted({*names, plan.graph.data.plugin, *wrappers})
    versions = plan.host.versions()
    mine = {
        "plugins": {name: versions[name] for name in names},
        "digest": plan.host.digest(names),
        "recipe": hashlib.sha256(dump(plan.recipe).encode()).hexdigest(),
    }
    if rank.rank == 0:
        store.set("mimo/plan", json.dumps({**mine, "note": note}))
    first = json.loads(store.get("mimo/plan"))
    same_recipe = mine["recipe"] == first["recipe"]
    if first["digest"] != mine["digest"] or not same_recipe:
        raise PluginError(
            f"rank {rank.rank} does not run what rank 0 runs: plugins {mine['plugins']} against "
            f"{first['plugins']}, {'the same' if same_recipe else 'another'} recipe; install the "
            "same versions on all machines and give all ranks the same recipe"
        )
    dist.init_process_group(
        backend,
        store=dist.PrefixStore("default", store),
        rank=rank.rank,
        world_size=rank.world_size,
        timeout=timeout,
    )
    return first["note"], mine["plugins"]
