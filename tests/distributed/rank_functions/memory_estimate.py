"""What ranks really hold, for ``test_memory``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs


def held(platform: Any, recipe: str, overrides: list[str]) -> dict[str, Any]:
    """Parameters of this rank's model, and bytes of its tensors, as the stock loop makes them."""
    from megatron.training.training import get_megatron_ddp_config, get_megatron_optimizer_config

    from mimo_core.distributed.process_groups import build_topology
    from mimo_core.model.builder import BuildConfig, Builder
    from mimo_core.optimizer import build_optimizer
    from mimo_core.planning.plan import make_plan
    from mimo_core.train.megatron_args import Steps, flags, parse
    from mimo_core.train.memory_usage import held_bytes

    plan = make_plan(recipe, overrides)
    layout = plan.layout
    topology = build_topology(layout.grids, layout.rank_offsets, platform.backend)
    config = BuildConfig(
        host=plan.host, graph=plan.graph, topology=topology, platform=platform, seed=1
    )
    steps = Steps(evaluation_iterations=0, save=Path(), resume=False, init_from=None)
    args = parse(plan, flags(plan, steps))
    (model,) = Builder(config).build_distributed_models(
        topology.collection, ddp_config=get_megatron_ddp_config(args)
    )
    optimizer, _ = get_megatron_optimizer_config(args)
    states = build_optimizer(model, optimizer)
    return {
        "module": ", ".join(model.nodes),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "gaps": sum(-p.numel() % 64 for p in model.parameters() if p.requires_grad),
        **attrs.asdict(held_bytes(model, states)),
    }
