"""The communicator of a rank, as the plan wants it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mimo_core.contract import LANGUAGE
from mimo_core.distributed.bridge import ModuleBridge
from mimo_core.distributed.pipeline_communicator import PipelineCommunicator
from mimo_core.distributed.process_groups import Topology
from mimo_core.distributed.routing import bridge_ranks, route_edge
from mimo_core.model.config import DTYPES
from mimo_core.planning.plan import Plan
from mimo_core.planning.plugin_answers import titled
from mimo_core.platforms.base import RankPlatform


def make_communicator(
    plan: Plan,
    platform: RankPlatform,
    topology: Topology,
    config_of: Callable[[str], Any],
    rank: int,
) -> PipelineCommunicator:
    """Called by all ranks of the world, for the bridge's group is collective.

    Args:
        plan: What is run.
        platform: This rank's machine.
        topology: Groups of the modules.
        config_of: Gives a module's ``ModelParallelConfig``.
        rank: This world rank.
    """
    graph, layout = plan.graph, plan.layout
    names = layout.modules_on_rank(rank)
    name = LANGUAGE if LANGUAGE in names else names[0]
    apart = bool(graph.encoders) and layout.kind == "non_colocated"
    silent = {encoder for encoder in graph.encoders if graph.modules[encoder].wholly_frozen}
    bridge = ModuleBridge(
        routes=[
            route_edge(edge.source, layout, plan.microbatch, rank)
            for edge in graph.edges
            if apart and name in (edge.source, LANGUAGE)
        ],
        ranks=bridge_ranks(layout) if apart else [],
        width=graph.descriptions[LANGUAGE].hidden_size,
        dtype=DTYPES[graph.modules[LANGUAGE].precision],
        silent=frozenset(silent),
        titles={encoder: titled(graph.modules[encoder]) for encoder in graph.encoders},
        platform=platform,
    )
    return PipelineCommunicator(
        module=name,
        layout=layout,
        rank=rank,
        config=config_of(name),
        pp_group=topology.groups[name].pp,
        bridge=bridge,
        layers_learn="encoder" not in graph.modules[name].freeze,
        ahead=plan.recipe.modules[name].extra_warmup_microbatches,
    )
