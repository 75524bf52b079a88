"""Bytes that a rank really holds, beside those that the plan states."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import torch

from mimo_core.model.mimo_model import RankMimoModel
from mimo_core.optimizer import Optimizer
from mimo_core.planning.memory_estimate import rank_memory
from mimo_core.planning.plan import Plan


@attrs.frozen(kw_only=True)
class MemoryUsage:
    """Bytes on one rank, of all its modules."""

    weights: int
    gradients: int
    optimizer: int


def held_bytes(model: RankMimoModel, optimizer: Optimizer) -> MemoryUsage:
    """Bytes of the memory in which weights, gradients and the optimizer's state lie, padding of
    buckets included, each piece of memory once.

    What shares memory is counted as the first of the three that has it: the fp32 parameters that
    an optimizer works on are the weights themselves.
    """
    seen: set[int] = set()
    parameters = list(model.parameters())
    weights = _bytes(parameters, seen)
    gradients = _bytes((_gradient(parameter) for parameter in parameters), seen)
    states = [
        tensor
        for info in optimizer.module_infos.values()
        if info.is_active and info.optimizer is not None
        for inner in info.optimizer.chained_optimizers
        for tensor in _tensors_of(inner.optimizer)
    ]
    return MemoryUsage(weights=weights, gradients=gradients, optimizer=_bytes(states, seen))


def planned_bytes(plan: Plan, rank: int) -> MemoryUsage:
    """What the plan states for a rank."""
    here = [held for held in rank_memory(plan.graph, plan.layout) if rank in held.ranks]
    return MemoryUsage(
        weights=sum(held.weights for held in here),
        gradients=sum(held.gradients for held in here),
        optimizer=sum(held.optimizer for held in here),
    )


def peak_resident() -> int:
    """Bytes of this process's largest resident size so far, pages shared with others included."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _gradient(parameter: torch.nn.Parameter) -> Any:
    """Where its gradient is accumulated: in a bucket of the DDP wrapper."""
    return getattr(parameter, "main_grad", parameter.grad)


def _tensors_of(optimizer: torch.optim.Optimizer) -> Iterable[Any]:
    """Moments, main parameters and all else that an optimizer keeps on its device."""
    for group in optimizer.param_groups:
        yield from group["params"]
    for state in optimizer.state.values():
        yield from state.values() if isinstance(state, Mapping) else ()


def _bytes(tensors: Iterable[Any], seen: set[int]) -> int:
    """Of memory that was not seen before; steps of Adam, scalars on the host, are left out."""
    total = 0
    for tensor in tensors:
        if not isinstance(tensor, torch.Tensor) or not tensor.dim():
            continue
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total += storage.nbytes()
    return total
