"""What ranks find when they compare weights and batches, one of them planted with a difference."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist

PLACES = {"tp": 2, "dp": 4, "ep": 2, "etp": 1}
"""Ranks tp + 2 dp; experts of ep rank ``rank % 2`` have four copies."""


def compare(platform: Any) -> dict[str, Any]:
    """By case: the error, or the lines that are reported instead. On 8 ranks."""
    from mimo_core.contract import LANGUAGE, Grid, ModuleConfig, TrainingConfig
    from mimo_core.data.microbatch_dataset import Batch
    from mimo_core.distributed.process_groups import build_topology
    from mimo_core.planning.rank_layout import plan_layout
    from mimo_core.train.replica_consistency import compare_batches, compare_weights

    rank = dist.get_rank()
    train = TrainingConfig(
        iterations=1, micro_batch_size=1, global_batch_size=1, sequence_length=8, learning_rate=1.0
    )

    def world(grids: dict[str, Grid]) -> tuple[Any, Any]:
        layout = plan_layout(grids)
        modules = {
            name: ModuleConfig(name=name, plugin="stranger", grid=grid, train=train)
            for name, grid in grids.items()
        }
        encoders = tuple(name for name in modules if name != LANGUAGE)
        graph = SimpleNamespace(modules=modules, encoders=encoders)
        topology = build_topology(layout.grids, layout.rank_offsets, platform.backend)
        return SimpleNamespace(graph=graph, layout=layout), topology.groups

    def said(plan: Any, groups: Any, bare: Any, trained: bool = False) -> Any:
        model: Any = SimpleNamespace(
            groups=groups, bare=lambda _name: bare, parameters=bare.parameters
        )
        try:
            return compare_weights(plan, model, "now", trained=trained)
        except ValueError as error:
            return str(error)

    copies = world({LANGUAGE: Grid(**PLACES)})
    stages = world({LANGUAGE: Grid(pp=2, dp=4)})
    found = {
        name: said(*copies, _module(rank, *planted), trained=name.startswith("trained"))
        for name, planted in {
            "equal": (),
            "a copy": ("split", 5),
            "an expert": ("expert", 5),
            "a buffer": ("bias", 5),
            "a norm": ("norm", 5),
            "a norm of tp 1": ("norm", 1, 3, 5, 7),
            "trained, a norm of tp 1": ("norm", 1, 3, 5, 7),
            "trained, a copy": ("norm", 5),
            "a name": ("more", 5),
        }.items()
    }
    for name, odd in {"tied": (), "untied": (4, 5, 6, 7)}.items():
        found[name] = said(*stages, _Stage(rank in odd))

    plan, _ = world({"vision": Grid(tp=2, dp=2), LANGUAGE: Grid(dp=4)})
    for name, (rows, pixels) in {
        "batches": ({}, {}),
        "positions": ({1: (4, 9), 3: (4, 4)}, {}),
        "inputs": ({}, {3: 1.0}),
    }.items():
        module = plan.layout.module_of(rank)
        counts = rows.get(rank, (4, 4)) if module == "vision" else (4,)
        values = torch.full((2, 3), pixels.get(rank, 0.0) + rank // 2)
        batch = Batch(
            inputs={module: {"pixels": values} if module == "vision" else None},
            rows={"vision": counts},
            decoded=0,
        )
        try:
            compare_batches(plan, batch)
            found[name] = None
        except ValueError as error:
            found[name] = str(error)
    return found


def _module(rank: int, what: str = "", *odd: int) -> torch.nn.Module:
    module = torch.nn.Module()
    at = {"tp": rank % 2, "ep": rank % 2}
    moved = 1e-6 if rank in odd else 0.0
    for name, value in {"norm": 1.0, "split": 2.0 + at["tp"], "expert": 4.0 + at["ep"]}.items():
        weight = torch.full((5, 7), value)
        weight[4, 3] += moved if name == what else 0.0
        setattr(module, name, torch.nn.Parameter(weight))
    module.split.tensor_model_parallel = True
    module.expert.allreduce = False
    module.register_buffer("bias", torch.full((3,), moved if what == "bias" else 0.0))
    module.register_buffer("scratch", torch.full((3,), float(rank)), persistent=False)
    if what == "more" and rank in odd:
        module.more = torch.nn.Parameter(torch.ones(1))
    return module


class _Stage(torch.nn.Module):
    """A stage of a language model whose output layer is its embedding."""

    share_embeddings_and_output_weights = True
    pre_process = post_process = True

    def __init__(self, odd: bool) -> None:
        super().__init__()
        self.word = torch.nn.Parameter(torch.full((4, 4), 2.0 if odd else 1.0))

    def shared_embedding_or_output_weight(self) -> torch.Tensor:
        return self.word
