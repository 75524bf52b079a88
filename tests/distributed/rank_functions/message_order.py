"""What ``test_order`` runs in a process with the CPU platform: many worlds, one after the other."""

from __future__ import annotations

import os
from typing import Any

import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.deadlock_simulator.fake_world import stuck
from tests.distributed.rank_functions.pipeline_communicator import Case


def every_world(
    platform: Any, cases: list[dict[str, Any]], planted: dict[str, Any]
) -> dict[str, Any]:
    """What each case is stuck at; and this one case with each fault planted."""
    dist.destroy_process_group()
    # HyperCommGrid believes it more than the process group.
    os.environ.pop("WORLD_SIZE")
    told = {
        "cases": [stuck(platform, case) for case in cases],
        "planted": {fault.__name__: stuck(platform, planted, fault) for fault in FAULTS},
    }
    dist.init_process_group("fake", rank=0, world_size=1, store=FakeStore())
    return told


def message_by_message(case: Case) -> None:
    """Sends and receives of one point of the schedule, each for itself, in the given order."""

    def one_by_one(operations: list[dist.P2POp]) -> list[dist.Work]:
        return [each.op(each.tensor, each.peer, each.group) for each in operations]

    exchange = case.communicator._bridge.exchange

    def unbatched(**given: Any) -> Any:
        batched, dist.batch_isend_irecv = dist.batch_isend_irecv, one_by_one
        try:
            return exchange(**given)
        finally:
            dist.batch_isend_irecv = batched

    case.communicator._bridge.exchange = unbatched


def receives_before_it_sends(case: Case) -> None:
    """Both ends of an edge wait for the other's message before they send their own."""
    communicator = case.communicator

    def language(gradients: Any, tensor_shapes: Any = None, is_first_stage: bool = False) -> Any:
        received = communicator.recv_forward(tensor_shapes)
        communicator.send_backward(gradients)
        return received

    def encoder(output: Any, tensor_shapes: Any = None, is_last_stage: bool = False) -> Any:
        received = communicator.recv_backward(tensor_shapes)
        communicator.send_forward(output)
        return received

    if communicator._receives_bridge:
        communicator.send_backward_recv_forward = language
    if communicator._sends_bridge:
        communicator.send_forward_recv_backward = encoder


def disagrees_on_what_learns(case: Case) -> None:
    """The language model takes an encoder for frozen, and sends it no gradients."""
    if case.module == "language":
        case.communicator._bridge._silent = frozenset({"vision"})


FAULTS = (message_by_message, receives_before_it_sends, disagrees_on_what_learns)
