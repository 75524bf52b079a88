"""Operations of all ranks on in-order streams: whatever the layout, no rank waits for ever.

``test_parity`` does the same with the operations of whole training runs.
"""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from mimo_core.contract import LANGUAGE
from mimo_core.testing import run_ranks

from ..deadlock_simulator.replay import Message, Operation, Stuck, replay
from ..helpers.paths import RANK_FUNCTIONS
from ..integration.test_parity import LAYOUTS
from .test_pipeline_communicator import CASES

SAMPLES = 4
DRAWN = 40


def drawn(number: int) -> dict[str, Any]:
    """Up to three encoders of any depth and width, any counts, any of them frozen."""
    draw = random.Random(number)
    names = ["vision", "audio", "depth"][: draw.randint(1, 3)]
    grids = {
        name: {"tp": draw.choice([1, 1, 2]), "pp": draw.randint(1, 3), "dp": draw.choice([1, 2, 4])}
        for name in names
    }
    language = {"pp": draw.randint(1, 3), "dp": draw.choice([1, 2])}
    language |= {draw.choice(["tp", "cp"]): draw.choice([1, 2])}
    return {"grids": {**grids, LANGUAGE: language}, **counts(draw, names)}


def counts(draw: random.Random, names: list[str]) -> dict[str, Any]:
    """Microbatches with rows of some samples, of a few, of none."""
    microbatches = draw.randint(1, 7)

    def rows() -> list[int]:
        most = draw.choice([0, 1, 3])
        return [draw.randint(0, most) for _ in range(SAMPLES)]

    return {
        "counts": {name: [rows() for _ in range(microbatches)] for name in names},
        "frozen": draw.sample(names, draw.choice([0, 0, 1, len(names)])),
        "ahead": {name: draw.choice([0, 0, 1, 3]) for name in names},
    }


def parity_case(name: str) -> dict[str, Any]:
    """A layout of the parity table."""
    grids: dict[str, dict[str, int]] = {"vision": {}, "depth": {}, LANGUAGE: {}}
    for override in LAYOUTS[name]:
        if match := re.fullmatch(r"modules\.(\w+)\.grid\.(\w+)=(\d+)", override):
            module, size, value = match.groups()
            grids[module][size] = int(value)
    return {"grids": grids, **counts(random.Random(name), ["vision", "depth"])}


@pytest.fixture(scope="module")
def names() -> list[str]:
    return [*LAYOUTS, *CASES, *(f"drawn {number}" for number in range(DRAWN))]


@pytest.fixture(scope="module")
def worlds() -> dict[str, Any]:
    """What every world is stuck at: one launch of one process."""
    cases = [
        *(parity_case(name) for name in LAYOUTS),
        *CASES.values(),
        *(drawn(number) for number in range(DRAWN)),
    ]
    file = RANK_FUNCTIONS / "message_order.py"
    (told,) = run_ranks(f"{file}:every_world", timeout=1800, cases=cases, planted=CASES["depths"])
    return told  # type: ignore[no-any-return]


@pytest.mark.long
def test_no_rank_waits_for_ever_in_any_layout(names: list[str], worlds: dict[str, Any]) -> None:
    """The parity table's, those of ``test_pipeline``, and drawn ones of up to 30 ranks, with
    communicators made eagerly and lazily."""
    assert len(names) == len(worlds["cases"])
    assert {name: told for name, told in zip(names, worlds["cases"], strict=True) if told} == {}


@pytest.mark.long
@pytest.mark.parametrize(
    "fault", ["message_by_message", "receives_before_it_sends", "disagrees_on_what_learns"]
)
def test_what_would_hang_on_gpus_is_found(worlds: dict[str, Any], fault: str) -> None:
    """Messages by themselves are what hung on GPUs (gloo, which keeps no order, runs them)."""
    assert "ranks wait for each other:\nrank " in (worlds["planted"][fault] or "")


def collective(name: str, group: str, *members: int) -> Operation:
    return Operation(name, group, members, None)


def messages(group: str, members: tuple[int, ...], *ends: tuple[str, int]) -> Operation:
    parts = tuple(Message(direction, peer, 1) for direction, peer in ends)
    return Operation("batch" if len(parts) > 1 else "message", group, members, parts)


def test_the_machine_keeps_the_order_of_each_rank() -> None:
    """Two groups of the same ranks, taken in opposite orders."""
    first, second = collective("all_reduce", "a", 0, 1), collective("all_reduce", "b", 0, 1)
    replay([[first, second], [first, second]])
    with pytest.raises(Stuck, match="rank 0 at all_reduce over ranks"):
        replay([[first, second], [second, first]])


def test_the_machine_lets_the_messages_of_a_batch_pass_each_other() -> None:
    both = (0, 1)
    send, receive = ("send", 1), ("receive", 1)
    replay(
        [[messages("g", both, send, receive)], [messages("g", both, ("send", 0), ("receive", 0))]]
    )
    with pytest.raises(Stuck):
        replay(
            [
                [messages("g", both, send), messages("g", both, receive)],
                [messages("g", both, ("send", 0)), messages("g", both, ("receive", 0))],
            ]
        )


def test_the_machine_makes_lazy_communicators_with_all_members() -> None:
    """Rank 2 never uses the group: torch says that behaviour is then undefined."""
    members = (0, 1, 2)
    world = [
        [messages("g", members, ("send", 1), ("receive", 1))],
        [messages("g", members, ("send", 0), ("receive", 0))],
        [],
    ]
    replay(world)
    with pytest.raises(Stuck):
        replay(world, lazy=True)


def test_the_machine_finds_ranks_that_mean_different_operations() -> None:
    with pytest.raises(Stuck, match=r"rank 0 is at all_reduce.*rank 1 at broadcast"):
        replay([[collective("all_reduce", "g", 0, 1)], [collective("broadcast", "g", 0, 1)]])
