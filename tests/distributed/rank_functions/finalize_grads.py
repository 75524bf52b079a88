"""Gradients of an encoder rank and of two language ranks, finalized together."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist

TOKENS = {"vision": (0,), "language": (3, 5)}


def finalize(platform: Any) -> list[float]:
    """This rank's gradient after finalizing; before it, rank ``r`` of three has ``8 (r + 1)``."""
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig

    from mimo_core.contract import Grid, ModuleConfig, TrainingConfig
    from mimo_core.distributed.process_groups import build_topology
    from mimo_core.model.config import transformer_config
    from mimo_core.train.finalize_grads import finalize_gradients

    grids = {"vision": Grid(), "language": Grid(dp=2)}
    topology = build_topology(grids, {"vision": 0, "language": 1}, platform.backend)
    ((name, groups),) = topology.groups.items()
    train = TrainingConfig(
        iterations=1, micro_batch_size=1, global_batch_size=2, sequence_length=8, learning_rate=1.0
    )
    module = ModuleConfig(name=name, plugin="any", grid=grids[name], train=train)
    config = transformer_config(module, num_layers=1, hidden_size=4, num_attention_heads=1)
    layer = torch.nn.Linear(1, 1, bias=False)
    layer.config = config
    wrapped = DistributedDataParallel(
        config, DistributedDataParallelConfig(), layer, pg_collection=groups
    )
    wrapped(torch.full((1, 1), 8.0 * (dist.get_rank() + 1))).sum().backward()
    model = SimpleNamespace(
        has_language=name == "language",
        groups={name: groups},
        active=lambda _name: wrapped,
        reductions={},
    )
    tokens = torch.tensor(TOKENS[name][groups.dp.rank()], dtype=torch.int)
    finalize_gradients([model], tokens)
    return layer.weight.main_grad.flatten().tolist()  # type: ignore[union-attr, operator]
