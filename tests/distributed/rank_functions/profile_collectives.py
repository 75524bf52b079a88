"""What ``test_profile_collectives`` runs on two ranks."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from mimo_core.profile import clock_alignment
from mimo_core.profile.collectives import recorded_collectives
from mimo_core.profile.recorder import Recorder, recording


def every_kind(platform: Any) -> dict[str, Any]:
    """Collectives as megatron calls them; rank 1 comes late to the second."""
    from megatron.core.distributed import param_and_grad_buffer
    from megatron.core.tensor_parallel import mappings
    from torch.distributed import _coalescing_manager as stock_batch

    rank = dist.get_rank()
    alone = [dist.new_group([one]) for one in range(2)][rank]
    stock = dist.all_reduce, mappings.dist_all_gather_func
    recorder = Recorder(rank, platform.stopwatch())
    one, two = torch.ones(1), torch.ones(2)
    with recorded_collectives(), recording(recorder):
        recorder.begin()
        dist.all_reduce(one)
        dist.all_reduce(one, group=alone)
        time.sleep(0.05 * rank)
        mappings.dist_all_gather_func(two, one, group=dist.group.WORLD)
        work = dist.all_reduce(one, async_op=True)
        time.sleep(0.02)
        work.wait()
        with param_and_grad_buffer._coalescing_manager(dist.group.WORLD, async_ops=True) as works:
            dist.all_reduce(two, async_op=True)
        works.wait()
        recorder.end()
    told = recorder.timeline(module="m", label=f"rank {rank}", offset=0.0)
    restored = (dist.all_reduce, mappings.dist_all_gather_func) == stock
    return {
        "values": [one.item(), *two.tolist()],
        "restored": restored and param_and_grad_buffer._coalescing_manager is stock_batch,
        "spans": [
            {
                "name": span.name,
                "seconds": span.end - span.begin,
                "comes": [[*each.ranks, each.what, each.index] for each in span.comes_to],
                "waits": [[*each.ranks, each.what, each.index] for each in span.waits_for],
            }
            for span in told.spans
        ],
    }


def other_machines(platform: Any) -> list[list[float]]:
    """What ranks measure that are taken for those of two machines, and of one."""
    told = []
    for names in ("ab", "aa"):
        clock_alignment.machine = partial(names.__getitem__, dist.get_rank())
        offset = clock_alignment.offset_to_rank_0()
        told.append([offset.seconds, offset.error])
    return told
