"""Recorded operations on in-order streams: does every rank come to its end?

The strictest machine that NCCL may be run on: every rank has one queue
(``CUDA_DEVICE_MAX_CONNECTIONS=1``, all communicators and the compute between them in the order in
which the host issued them), nothing is buffered, and an operation leaves the head of its queue only
when all its partners stand at the head of theirs. The messages of one batch move independently of
each other, as those of one NCCL group do. More queues, buffers or a host that blocks less only let
ranks come further: who ends here ends there.

With ``lazy`` communicators a group's first operation also waits until all members of the group are
at their first (NCCL makes the communicator then, on the host); a message outside a batch makes
one of its own for the pair. Eager ones exist before.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs


@attrs.frozen
class Message:
    """One end of it."""

    direction: str
    peer: int
    elements: int


@attrs.frozen
class Operation:
    """A collective, or the messages of a batch."""

    name: str
    group: str
    members: tuple[int, ...]
    messages: tuple[Message, ...] | None

    def __str__(self) -> str:
        if self.messages is None:
            return f"{self.name} over ranks {list(self.members)}"
        parts = (f"{one.direction} {one.peer}" for one in self.messages)
        return f"{self.name} [{', '.join(parts)}]"


def read(path: Path) -> list[Operation]:
    """What a rank has recorded."""
    found = []
    for line in path.read_text().splitlines():
        name, group, members, messages = json.loads(line)
        ends = None if messages is None else tuple(Message(*one) for one in messages)
        found.append(Operation(name, group, tuple(members), ends))
    return found


class Stuck(AssertionError):
    """Ranks wait for each other for ever, or do not mean the same operation."""


def replay(recorded: Iterable[Sequence[Operation]], *, lazy: bool = False) -> None:
    """Run the queues of ranks 0, 1, … to their ends.

    Raises:
        Stuck: they do not come to their ends; says at what each rank stands.
    """
    world = _World(recorded, lazy)
    while any(world.step(rank) for rank in range(len(world.queues))):
        pass
    world.check_ended()


class _World:
    def __init__(self, recorded: Iterable[Sequence[Operation]], lazy: bool) -> None:
        self.queues = [list(reversed(queue)) for queue in recorded]
        self.lazy = lazy
        # Of each rank: collectives done by group, messages done by (group, sender, receiver).
        self.collectives: list[Counter[str]] = [Counter() for _ in self.queues]
        self.messages: list[Counter[tuple[str, int, int]]] = [Counter() for _ in self.queues]
        # Of the operation at each head: the indices of its messages that have arrived.
        self.arrived: list[set[int]] = [set() for _ in self.queues]
        self.communicators: set[object] = set()

    def head(self, rank: int) -> Operation | None:
        return self.queues[rank][-1] if self.queues[rank] else None

    def step(self, rank: int) -> bool:
        """Whether the head of this rank's queue moved."""
        head = self.head(rank)
        if head is None or not self._has_communicator(rank, head):
            return False
        if head.messages is None:
            return self._collective(rank, head)
        return self._move_messages(rank, head)

    def _has_communicator(self, rank: int, head: Operation) -> bool:
        if not self.lazy:
            return True
        if head.name == "message":
            assert head.messages is not None
            members = tuple(sorted([rank, head.messages[0].peer]))
        else:
            members = head.members
        communicator = (head.group, members, head.name == "message")
        if communicator not in self.communicators:
            heads = [self.head(member) for member in members]
            if all(
                one is not None
                and one.group == head.group
                and (one.name == "message") == (head.name == "message")
                for one in heads
            ):
                self.communicators.add(communicator)
        return communicator in self.communicators

    def _collective(self, rank: int, head: Operation) -> bool:
        number = self.collectives[rank][head.group]
        for member in head.members:
            other = self.head(member)
            if other is None or other.group != head.group or other.messages is not None:
                return False
            if self.collectives[member][head.group] != number:
                return False
            if other.name != head.name:
                raise Stuck(f"rank {rank} is at {head}, rank {member} at {other}")
        for member in head.members:
            self.collectives[member][head.group] += 1
            self._leave(member)
        return True

    def _move_messages(self, rank: int, head: Operation) -> bool:
        moved = False
        assert head.messages is not None
        for index, message in enumerate(head.messages):
            if index in self.arrived[rank]:
                continue
            found = self._partner(rank, index, head)
            if found is None:
                continue
            peer, other = found
            there = self.queues[peer][-1].messages
            assert there is not None
            if there[other].elements != message.elements:
                raise Stuck(
                    f"rank {rank} at {head} and rank {peer} at {self.queues[peer][-1]} mean "
                    f"{message.elements} and {there[other].elements} elements"
                )
            self.arrived[rank].add(index)
            self.arrived[peer].add(other)
            moved = True
        for one in {rank, *(message.peer for message in head.messages)}:
            top = self.head(one)
            if top is None or top.messages is None:
                continue
            if len(self.arrived[one]) == len(top.messages):
                self._leave(one)
        return moved

    def _partner(self, rank: int, index: int, head: Operation) -> tuple[int, int] | None:
        """The other end of a message, where it stands at the head as well."""
        assert head.messages is not None
        message = head.messages[index]
        other = self.head(message.peer)
        if other is None or other.messages is None or other.group != head.group:
            return None
        direction = "receive" if message.direction == "send" else "send"
        mine = self._number(rank, index, head)
        for place, candidate in enumerate(other.messages):
            if (candidate.direction, candidate.peer) != (direction, rank):
                continue
            if self._number(message.peer, place, other) == mine:
                return message.peer, place
        return None

    def _number(self, rank: int, index: int, head: Operation) -> int:
        """How many messages went the same way before this one."""
        assert head.messages is not None
        message = head.messages[index]
        before = sum(
            (one.direction, one.peer) == (message.direction, message.peer)
            for one in head.messages[:index]
        )
        return self.messages[rank][_way(rank, message, head.group)] + before

    def _leave(self, rank: int) -> None:
        head = self.queues[rank].pop()
        for message in head.messages or ():
            self.messages[rank][_way(rank, message, head.group)] += 1
        self.arrived[rank] = set()

    def check_ended(self) -> None:
        waiting = [
            f"rank {rank} at {queue[-1]}, {len(queue) - 1} more behind it"
            for rank, queue in enumerate(self.queues)
            if queue
        ]
        if waiting:
            raise Stuck("ranks wait for each other:\n" + "\n".join(waiting))


def _way(rank: int, message: Message, group: str) -> tuple[str, int, int]:
    ends = (rank, message.peer) if message.direction == "send" else (message.peer, rank)
    return (group, *ends)
