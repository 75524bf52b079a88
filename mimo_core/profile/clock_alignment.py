"""The ranks' clocks, related to rank 0's just before a step."""

from __future__ import annotations

import os
import socket

import torch.distributed as dist

from mimo_core.profile.clock_sync import SAME, ClockServer, Offset, machine, measure


def offset_to_rank_0() -> Offset:
    """From this process's ``time.perf_counter`` to rank 0's. Called by all ranks.

    Ranks of rank 0's machine have its clock; of every other machine, the first rank measures.

    Raises:
        ValueError: rank 0's machine cannot be reached.
    """
    rank = dist.get_rank()
    machines = _gathered(machine())
    if len(set(machines)) == 1:
        return SAME
    address = os.environ["MASTER_ADDR"]
    family = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)[0][0]
    server = ClockServer(family=family) if rank == 0 else None
    place = _gathered(None if server is None else (server.port, server.token))[0]
    assert place is not None
    measures = machines[rank] != machines[0] and machines.index(machines[rank]) == rank
    offsets = _gathered(measure(address, *place) if measures else None)
    if server is not None:
        server.close()
    return offsets[machines.index(machines[rank])] or SAME


def _gathered[T](mine: T) -> list[T]:
    told: list[T] = [mine] * dist.get_world_size()
    dist.all_gather_object(told, mine)
    return told
