"""Two ranks: copies, tensor parallelism, ranks without media."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.mapping import is_main_replica
from torch import Tensor

from mimo_core.testing.checks.gradients import batch_of, learn
from mimo_core.testing.outcome import Finding
from mimo_core.testing.rank_harness import Built, Rig
from mimo_core.testing.weights import put_gradients

Place = tuple[str, tuple[int, ...]]


def some_without_media(rig: Rig) -> Iterator[Finding]:
    """One copy has media and another has none, in turns: neither waits for the other."""
    built = rig.build()
    built.model.train()
    samples = built.samples()
    kind = str(built.described.modality)
    without = [sample for sample in samples if not any(sample.media(kind))]
    for turn in range(2):
        mine = samples if dist.get_rank() == turn else without
        batch = built.provide(mine)
        if batch is None:
            built.encode(None)
        else:
            learn(built, batch)
        # A rank that waits in its copies' group does not meet this one.
        dist.barrier()
    yield from ()


def copies(rig: Rig) -> Iterator[Finding]:
    """Data-parallel copies begin with the same weights, and save each tensor once."""
    rig.bench.declares("dp")
    built = rig.build()
    differ = []
    for name, value in built.parameters().items():
        first = value.detach().clone()
        dist.broadcast(first, 0)
        if not torch.equal(first, value):
            differ.append(name)
    if differ:
        yield Finding(
            said=f"{differ[0]} of {built.module.plugin!r} begins with other values on the second "
            "data-parallel copy",
            fix="draw weights from torch's default generator, never from the rank",
        )
    yield from _saved_once(built)


def tensor(rig: Rig) -> Iterator[Finding]:
    """With tp 2 the same weights give the same outputs and gradients as on one rank."""
    rig.bench.declares("tp")
    whole, split = rig.build(), rig.build(grid={"tp": 2})
    if rig.bench.subject.kind != "wrapper":
        # What a wrapper adds follows from what is built, which no description knows.
        yield from _counts(split)
    once = list(_saved_once(split))
    yield from once
    if once:
        return
    outputs = []
    copied = _of_all_ranks(_copy(whole, split))
    yield from copied
    if copied:
        return
    for built in (whole, split):
        built.model.eval()
        outputs.append(learn(built, batch_of(built)))
    limit = rig.bench.subject.tolerance
    gap = _largest(_gap(outputs[1], outputs[0]))
    if not gap <= limit:
        yield Finding(
            said=f"{split.module.plugin!r} puts out something else with tp 2 than with tp 1: "
            f"largest difference {gap:.1e} of the largest value (limit {limit:.0e})",
            fix="look for a sum over tp that is missing or done twice, a bias added on every rank, "
            "and for keys or offsets of sharded_state_dict() that name another slice",
        )
        return
    yield from _gradients(whole, split, limit)


def _copy(whole: Built, split: Built) -> Iterator[Finding]:
    """Give the split model the whole one's weights, by what both tell of their checkpoints."""
    held = _by_place(whole)
    with torch.no_grad():
        for item in split.sharded():
            place = _place(item)
            if place not in held:
                yield Finding(
                    said=f"the checkpoint of {split.module.plugin!r} has {place[0]} with tp 2 "
                    "alone",
                    fix="a key must be the same for every grid: a run may go on with another one",
                )
                return
            full = held[place]
            first = item.prepend_axis_num
            if tuple(item.global_shape[first:]) != tuple(full.shape):
                yield Finding(
                    said=f"{item.key} of {split.module.plugin!r} is {list(full.shape)} in a "
                    f"checkpoint of tp 1, {list(item.global_shape[first:])} in one of tp 2",
                    fix="tell how it is cut: make_sharded_tensors_for_checkpoint takes the axis of "
                    "each parameter that is split over tp",
                )
                return
            item.data.copy_(full[_slice(item)].reshape(item.data.shape))


def _gradients(whole: Built, split: Built, limit: float) -> Iterator[Finding]:
    for value in split.parameters().values():
        if value.grad is None:
            continue
        if getattr(value, "sequence_parallel", False):
            dist.all_reduce(value.grad, group=split.groups.tp)
        if not getattr(value, "allreduce", True):
            dist.all_reduce(value.grad, group=split.groups.expt_dp)
    put_gradients([whole.bare, split.bare])
    held = _by_place(whole)
    worst, where = 0.0, ""
    for item in split.sharded():
        full = held[_place(item)]
        if full.is_floating_point():
            gap = _gap(item.data.reshape(item.local_shape), full[_slice(item)], full)
            worst, where = max((worst, where), (gap, item.key))
    worst, where = max(_gathered((worst, where)))
    if not worst <= limit:
        yield Finding(
            said=f"the gradient of {where} of {split.module.plugin!r} is another with tp 2 than "
            f"with tp 1: largest difference {worst:.1e} of its largest value (limit {limit:.0e})",
            fix="mark parameters that tp ranks share and that see a part of the sequence with "
            "sequence_parallel=True; use megatron's copy_to_tensor_model_parallel_region and "
            "reduce_from_tensor_model_parallel_region",
        )


def _counts(split: Built) -> Iterator[Finding]:
    """``describe_module().parameters`` tells what tp divides."""
    held = sum(value.numel() for value in split.parameters().values())
    tp = split.module.grid.tp
    told = sum(
        -(-one.num_parameters // (tp if "tp" in one.sharded_over else 1))
        for one in split.described.parameters
    )
    if held != told:
        yield Finding(
            said=f"{split.module.plugin!r} has {held:,} parameters on a rank of tp {tp}; by "
            f"describe_module().parameters and their split it should have {told:,}",
            fix="name 'tp' in ParameterSpec.sharded_over of what is divided over tensor-parallel "
            "ranks, and only of that",
        )


def _saved_once(built: Built) -> Iterator[Finding]:
    """Every value of every tensor is written by exactly one rank."""
    mine = [
        (item.key, tuple(item.global_shape), math.prod(item.local_shape))
        for item in built.sharded()
        if is_main_replica(item.replica_id)
    ]
    shapes = {item.key: tuple(item.global_shape) for item in built.sharded()}
    told = _gathered((mine, shapes))
    due: dict[str, int] = {}
    written: dict[str, int] = {}
    for pieces, all_shapes in told:
        due |= {key: math.prod(shape) for key, shape in all_shapes.items()}
        for key, _, count in pieces:
            written[key] = written.get(key, 0) + count
    grid = "tp 2" if built.module.grid.tp > 1 else "dp 2"
    for key, count in due.items():
        if written.get(key, 0) != count:
            yield Finding(
                said=f"with {grid}, {written.get(key, 0):,} values of {key} of "
                f"{built.module.plugin!r} would be saved; it has {count:,}",
                fix="replica_id must be 0 on exactly one of the ranks that hold the same slice, "
                "and offsets must tile the tensor: leave both to megatron's "
                "make_sharded_tensors_for_checkpoint with the module's tp and dp_cp groups",
            )
            return


def _gathered(value: Any) -> list[Any]:
    """Of all ranks."""
    told: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(told, value)
    return told


def _of_all_ranks(findings: Iterator[Finding]) -> list[Finding]:
    """The same on every rank, so that all go on or none does."""
    return list(dict.fromkeys(one for some in _gathered(list(findings)) for one in some))


def _largest(gap: float) -> float:
    return max(_gathered(gap))


def _by_place(built: Built) -> dict[Place, Tensor]:
    """Whole tensors; one that is saved in pieces (a gated layer's) is put together."""
    found: dict[Place, Tensor] = {}
    for item in built.sharded():
        whole = found.get(_place(item))
        if whole is None:
            whole = item.data.new_zeros(item.global_shape[item.prepend_axis_num :])
            found[_place(item)] = whole
        whole[_slice(item)] = item.data.detach().reshape(item.local_shape)
    return found


def _place(item: Any) -> Place:
    return item.key, tuple(item.global_offset[: item.prepend_axis_num])


def _slice(item: Any) -> tuple[slice, ...]:
    offsets = item.global_offset[item.prepend_axis_num :]
    return tuple(
        slice(offset, offset + size) for offset, size in zip(offsets, item.local_shape, strict=True)
    )


def _gap(one: Tensor, other: Tensor, scale: Tensor | None = None) -> float:
    """Largest difference as a share of the largest value; infinite where a number is not finite,
    for ``max`` passes over nan."""
    largest = (other if scale is None else scale).abs().max()
    gap = (one - other).abs().max()
    share = float(gap / largest if largest else gap)
    return share if math.isfinite(share) else math.inf
