"""The stock schedule on every rank of a world, one after the other in one process.

What a rank asks for, and in which order, does not depend on what arrives: a process group of
torch's "fake" backend takes every operation and moves nothing, so the operations of any number of
ranks are recorded in milliseconds.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from mimo_core.contract import LANGUAGE, Grid
from mimo_core.planning.rank_layout import plan_layout
from tests.deadlock_simulator.record import recorded
from tests.deadlock_simulator.replay import Stuck, read, replay
from tests.distributed.rank_functions.pipeline_communicator import LENGTH, WIDTH, Case

Grids = dict[str, dict[str, int]]


class FakePlatform:
    """Of a rank that is not there."""

    name = "cpu"
    backend = "fake"
    transformer_engine = False
    device = torch.device("cpu")

    def __init__(self, platform: Any) -> None:
        self.transfer = platform.transfer
        self.received = platform.received
        self.synchronize = platform.synchronize


def stuck(
    platform: Any,
    given: dict[str, Any],
    change: Callable[[Case], None] | None = None,
) -> str | None:
    """Train, evaluate and train a shorter step on all ranks; what they are stuck at, if they are.

    Args:
        platform: Of this process.
        given: ``grids``, ``counts`` and ``frozen`` of a ``pipeline_communicator.Case``.
        change: Made to every rank's case before it runs.
    """
    layout = plan_layout({name: Grid(**sizes) for name, sizes in given["grids"].items()})
    count = len(next(iter(given["counts"].values())))
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / str(rank) for rank in range(layout.world_size)]
        for rank, file in enumerate(files):
            dist.init_process_group(
                "fake", rank=rank, world_size=layout.world_size, store=FakeStore()
            )
            try:
                with recorded(file):
                    case = Case(FakePlatform(platform), **given)
                    if change is not None:
                        change(case)
                    forget = tell_shapes(case)
                    for length, forward_only in [(count, False), (count, True), (1, False)]:
                        forget()
                        case.run(length, forward_only)
            finally:
                dist.destroy_process_group()
        queues = [read(file) for file in files]
    try:
        for lazy in (False, True):
            replay(queues, lazy=lazy)
    except Stuck as error:
        return str(error)
    return None


def tell_shapes(case: Case) -> Callable[[], None]:
    """Give core's stages the shapes that the messages would have brought.

    Returns:
        What to call before each run: an evaluation brings no gradients back.
    """
    stage = case.communicator._stage
    stock = stage._communicate_shapes
    sent: deque[list[int]] = deque()

    def shapes(
        send_next: torch.Tensor | None, send_prev: Any, recv_prev: bool, recv_next: bool
    ) -> tuple[Any, Any]:
        stock(send_next, send_prev, recv_prev, recv_next)  # For its messages.
        if send_next is not None:
            sent.append(list(send_next.shape))
        before = after = None
        if recv_prev:
            rows = case.communicator.rows.peek_row_counts()
            samples = len(next(iter(rows.values())))
            language = case.module == LANGUAGE
            before = [LENGTH, samples, WIDTH] if language else [sum(rows[case.module]), 1, WIDTH]
        if recv_next:
            after = sent.popleft()
        return before, after

    stage._communicate_shapes = shapes
    return sent.clear
