"""What ranks really hold, for ``test_memory``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def held(platform: Any, recipe: str, overrides: list[str]) -> dict[str, Any]:
    """Parameters of this rank's model, and bytes of its tensors, as the stock loop makes them."""
    from megatron.training.training import get_megatron_ddp_config, get_megatron_optimizer_config

    from mimo_core.model.builder import BuildConfig, Builder
    from mimo_core.optimizer import build_optimizer
    from mimo_core.plan import make_plan
    from mimo_core.topology import build_topology
    from mimo_core.train.arguments import Steps, flags, parse

    plan = make_plan(recipe, overrides)
    layout = plan.layout
    topology = build_topology(layout.grids, layout.first_ranks, platform.backend)
    config = BuildConfig(
        host=plan.host, graph=plan.graph, topology=topology, platform=platform, seed=1
    )
    steps = Steps(evaluation_iterations=0, save=Path(), resume=False, start_from=None)
    args = parse(plan, flags(plan, steps))
    (model,) = Builder(config).build_distributed_models(
        topology.collection, ddp_config=get_megatron_ddp_config(args)
    )
    optimizer, _ = get_megatron_optimizer_config(args)
    states = build_optimizer(model, optimizer)._active_optimizers
    parameters = list(model.parameters())
    shards = [
        parameter
        for outer in states
        for inner in outer.chained_optimizers
        for group in inner.optimizer.param_groups
        for parameter in group["params"]
    ]
    moments = [
        tensor
        for outer in states
        for inner in outer.chained_optimizers
        for state in inner.optimizer.state.values()
        for tensor in state.values()
        if tensor.dim()
    ]
    # In fp32 the optimizer's shards are views of the parameters, not copies.
    storages = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    copies = [s for s in shards if s.untyped_storage().data_ptr() not in storages]
    return {
        "module": ", ".join(model.nodes),
        "parameters": sum(parameter.numel() for parameter in parameters),
        "weights": _bytes(parameters),
        "gradients": _bytes([p.main_grad for p in parameters if p.requires_grad]),
        "optimizer": _bytes(moments) + _bytes(copies),
    }


def _bytes(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
