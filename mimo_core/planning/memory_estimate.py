"""Bytes that every rank holds for the parameters of its module, told from the descriptions.

What megatron-core 0.19 allocates by its defaults: gradients are accumulated in fp32 in either
precision (stock sets ``accumulate_allreduce_grads_in_fp32`` for bf16), and the distributed
optimizer divides the states of Adam over the ranks that hold copies of a parameter: two moments in
fp32, and in bf16 a main copy in fp32 besides. Padding of its buckets, activations and whatever
the allocator keeps come on top.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from mimo_core import platforms
from mimo_core.contract import Grid, ModuleConfig, ModuleDescription, ParameterSpec, Precision
from mimo_core.planning.model_graph import Graph
from mimo_core.planning.rank_layout import Layout

_WEIGHT: dict[Precision, int] = {"fp32": 4, "bf16": 2}
_GRADIENT = 4
_STATE: dict[Precision, int] = {"fp32": 8, "bf16": 12}
_EXPERT_SIZES = frozenset({"ep", "etp"})


@attrs.frozen(kw_only=True)
class RankMemory:
    """What each of some ranks holds."""

    module: str
    ranks: range
    """World ranks that hold equally much: whole pipeline stages of one module."""
    parameters: int
    """On one of the ranks; so are the bytes."""
    weights: int
    """Bytes of the parameters themselves."""
    gradients: int
    """Bytes of the gradients of those that learn."""
    optimizer: int
    """Bytes of the optimizer's state of those that learn."""

    @property
    def total(self) -> int:
        """Bytes together."""
        return self.weights + self.gradients + self.optimizer


def rank_memory(graph: Graph, layout: Layout) -> tuple[RankMemory, ...]:
    """What ranks hold of each module, in the order of the ranks; colocated ones have an entry for
    each module."""
    found = [
        stage
        for name, module in graph.modules.items()
        for stage in _stages(module, graph.descriptions[name], layout.ranks(name))
    ]
    found.sort(key=lambda stage: stage.ranks.start)
    merged: list[RankMemory] = []
    for stage in found:
        last = merged[-1] if merged else None
        if last is not None and attrs.evolve(last, ranks=stage.ranks) == stage:
            merged[-1] = attrs.evolve(last, ranks=range(last.ranks.start, stage.ranks.stop))
        else:
            merged.append(stage)
    return tuple(merged)


def lacking(graph: Graph, layout: Layout, here: int) -> str | None:
    """That all ranks hold more than one machine has, in a line; ``None`` where they do not.

    Args:
        graph: The model.
        layout: Its ranks, all of them on CPUs of the machine.
        here: Bytes of its memory.
    """
    total = sum(stage.total * len(stage.ranks) for stage in rank_memory(graph, layout))
    if total <= here:
        return None
    return (
        f"weights, gradients and optimizer states of all ranks take {total / 1e9:.1f} GB, and this "
        f"machine has {here / 1e9:.1f} GB: ranks may be killed (mimo plan tells them by rank)"
    )


def memory_warning(graph: Graph, layout: Layout) -> str | None:
    """The same of this machine; ``None`` where there is a GPU, which has memory of its own."""
    if not platforms.without_gpu():
        return None
    import psutil

    return lacking(graph, layout, psutil.virtual_memory().total)


def _stages(
    module: ModuleConfig, description: ModuleDescription, ranks: range
) -> Iterator[RankMemory]:
    """One entry for each pipeline stage, whose ranks follow each other."""
    grid = module.grid
    size = grid.size // grid.pp
    for stage in range(grid.pp):
        parameters = gradients = states = 0
        for weights in description.parameters:
            if _stage_of(weights, description.num_layers, grid.pp) != stage:
                continue
            held = _share(
                weights.num_parameters, *(getattr(grid, name) for name in weights.sharded_over)
            )
            parameters += held
            if weights.component not in module.freeze and not weights.frozen:
                gradients += _GRADIENT * held
                states += _STATE[module.precision] * _share(held, _copies(weights, grid))
        yield RankMemory(
            module=module.name,
            ranks=ranks[stage * size : (stage + 1) * size],
            parameters=parameters,
            weights=_WEIGHT[module.precision] * parameters,
            gradients=gradients,
            optimizer=states,
        )


def _stage_of(weights: ParameterSpec, layers: int, stages: int) -> int:
    """The pipeline stage of some weights: layer ``i`` of ``L`` is on ``i * stages // L``."""
    if weights.layer == "first":
        return 0
    if weights.layer == "last":
        return stages - 1
    return weights.layer * stages // layers


def _copies(weights: ParameterSpec, grid: Grid) -> int:
    """Ranks over which the optimizer's state is divided: data and context parallel ones, or of
    experts the expert data-parallel ones."""
    if weights.sharded_over & _EXPERT_SIZES:
        return grid.size // (grid.pp * grid.ep * grid.etp)
    return grid.dp * grid.cp


def _share(number: int, *sizes: int) -> int:
    """The largest part of a number that is divided by each of the sizes."""
    for size in sizes:
        number = -(-number // size)
    return number
