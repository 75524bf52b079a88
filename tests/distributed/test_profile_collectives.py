"""Collectives record themselves, wherever they are called from and however they are awaited."""

from __future__ import annotations

from mimo_core.testing import run_ranks

from ..helpers.paths import RANK_FUNCTIONS

PATH = RANK_FUNCTIONS / "profile_collectives.py"


def test_every_kind_of_collective_is_recorded_once() -> None:
    first, second = run_ranks(f"{PATH}:every_kind", ranks=2, timeout=1800)
    assert first["values"] == second["values"] == [4.0, 4.0, 4.0]
    assert first["restored"] and second["restored"]

    def of(*, name: str, index: int) -> list[object]:
        return [0, 1, name, index]

    reduce, gather = "all_reduce", "all_gather_into_tensor"
    expected = [
        ("all_reduce", [of(name=reduce, index=0)], [of(name=reduce, index=0)]),
        # That of a group of one is none.
        ("all_gather_into_tensor", [of(name=gather, index=0)], [of(name=gather, index=0)]),
        ("all_reduce", [of(name=reduce, index=1)], []),
        ("all_reduce", [], [of(name=reduce, index=1)]),
        ("collectives", [of(name="collectives", index=0)], []),
        ("all_reduce", [of(name=reduce, index=2)], []),
        ("collectives", [], [of(name="collectives", index=0)]),
    ]
    for told in (first, second):
        assert [(one["name"], one["comes"], one["waits"]) for one in told["spans"]] == expected
    # Half of what the other rank slept before it came.
    assert first["spans"][1]["seconds"] > 0.025


def test_the_first_rank_of_another_machine_measures_its_clock() -> None:
    first, second = run_ranks(f"{PATH}:other_machines", ranks=2, timeout=1800)
    same = [0.0, 0.0]
    assert first == [same, same]
    (seconds, error), alone = second
    assert alone == same
    # Both are on this machine: the clocks are one.
    assert abs(seconds) <= error < 0.1 and error > 0
