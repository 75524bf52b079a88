"""How a step is divided, on spans made by hand: whose waiting, and how much of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mimo_core.profile.breakdown import Figures
from mimo_core.profile.chrome_trace import chrome_trace
from mimo_core.profile.spans import Exchange, Kind, RankTimeline, Span, Timeline
from mimo_core.profile.table import remarks
from mimo_core.profile.timeline_plot import draw_timeline


def span(kind: Kind, begin: float, end: float, **more: Any) -> Span:
    return Span(kind=kind, name=kind, begin=begin, end=end, **more)


def sent(source: int, target: int, index: int = 0) -> Exchange:
    return Exchange(what="rows of vision", ranks=(source, target), index=index, message=True)


def together(*ranks: int) -> Exchange:
    return Exchange(what="all_reduce", ranks=ranks, index=0, message=False)


def figures(*ranks: tuple[Span, ...], ends: tuple[float, ...] = (), device: str = "cpu") -> Figures:
    """Of ranks whose steps begin at 0 and end at 10; rank 0 is an encoder."""
    ends = ends or (10.0,) * len(ranks)
    return Figures.of(
        Timeline(
            iteration=3,
            ranks=tuple(
                RankTimeline(
                    rank=number,
                    module="language" if number else "vision",
                    label=f"rank {number}",
                    begin=0.0,
                    end=end,
                    spans=spans,
                )
                for number, (spans, end) in enumerate(zip(ranks, ends, strict=True))
            ),
            clock_error=0.0,
            device=device,
        )
    )


def shares(told: Figures, rank: int) -> dict[str, float]:
    """Without those that take no time."""
    return {share: time for share, time in told.ranks[rank].shares.items() if time}


MESSAGE = sent(0, 1)
ENCODER = (
    span("data", 0, 1),
    span("forward", 1, 4, microbatch=0),
    span("exchange", 4, 5, comes_to=(MESSAGE,)),
)


def test_a_receive_waits_until_the_sender_comes_and_then_communicates() -> None:
    receive = span("exchange", 1, 7, comes_to=(MESSAGE,), waits_for=(MESSAGE,))
    told = figures(ENCODER, (receive, span("forward", 7, 10, microbatch=0)))
    assert shares(told, 1) == {"waiting": 3, "communication": 3, "compute": 3, "other": 1}
    assert told.ranks[1].waits_on == {0: 3}
    assert shares(told, 0) == {"data": 1, "compute": 3, "communication": 1, "other": 5}


def test_what_has_come_before_is_not_waited_for() -> None:
    receive = span("exchange", 6, 7, comes_to=(MESSAGE,), waits_for=(MESSAGE,))
    told = figures(ENCODER, (span("forward", 0, 6, microbatch=0), receive))
    assert shares(told, 1) == {"compute": 6, "communication": 1, "other": 3}
    assert told.ranks[1].waits_on == {}


def test_a_sender_that_must_be_rid_of_it_waits_for_the_receiver() -> None:
    send = span("exchange", 2, 9, comes_to=(MESSAGE,), waits_for=(MESSAGE,))
    told = figures((send,), (span("exchange", 8, 9, comes_to=(MESSAGE,), waits_for=(MESSAGE,)),))
    assert shares(told, 0) == {"other": 3, "waiting": 6, "communication": 1}
    assert told.ranks[0].waits_on == {1: 6}


def test_a_message_that_is_there_before_it_is_said_to_come_is_all_waiting() -> None:
    """A receive that ends before the other side is seen to have come (clocks differ a little)."""
    receive = span("exchange", 1, 3.9, comes_to=(MESSAGE,), waits_for=(MESSAGE,))
    told = figures(ENCODER, (receive,))
    assert shares(told, 1) == {"other": pytest.approx(7.1), "waiting": pytest.approx(2.9)}


def test_a_collective_waits_for_its_last_member() -> None:
    everyone = together(0, 1, 2)
    come = {0: 2.0, 1: 5.0, 2: 1.0}
    told = figures(
        *(
            (span("exchange", at, 6, comes_to=(everyone,), waits_for=(everyone,)),)
            for at in come.values()
        )
    )
    assert [shares(told, rank).get("waiting", 0) for rank in come] == [3, 0, 4]
    assert [told.ranks[rank].waits_on for rank in come] == [{1: 3}, {}, {1: 4}]
    assert all(shares(told, rank)["communication"] == 1 for rank in come)


def test_of_several_exchanges_the_last_to_come_is_waited_for() -> None:
    other = sent(2, 1)
    late = (span("forward", 0, 6, microbatch=0), span("exchange", 6, 6.5, comes_to=(other,)))
    both = (MESSAGE, other)
    receive = span("exchange", 1, 7, comes_to=both, waits_for=both)
    told = figures(ENCODER, (receive,), late)
    assert told.ranks[1].waits_on == {2: 5}


def test_a_collective_in_a_pass_is_no_computing() -> None:
    pair = together(1, 2)
    pieces = (
        span("backward", 0, 10, microbatch=0),
        span("exchange", 3, 5, comes_to=(pair,), waits_for=(pair,)),
    )
    late = (span("exchange", 4, 5, comes_to=(pair,), waits_for=(pair,)),)
    told = figures((), pieces, late)
    assert shares(told, 1) == {"compute": 8, "waiting": 1, "communication": 1}


def test_finalizing_and_the_optimizer_are_one_share() -> None:
    told = figures((span("gradients", 1, 3), span("optimizer", 3, 4)))
    assert shares(told, 0) == {"optimizer": 3, "other": 7}


def test_who_is_done_waits_for_the_last_rank() -> None:
    told = figures((), (), ends=(4.0, 10.0))
    assert shares(told, 0) == {"other": 4, "waiting": 6} and told.ranks[0].waits_on == {1: 6}
    assert shares(told, 1) == {"other": 10}


def test_the_cause_is_at_the_end_of_the_chain() -> None:
    """Rank 2 waits for 1 from 0 to 7, and that for 0 from 1 to 4: three of the seven."""
    onward = sent(1, 2)
    first = (
        span("exchange", 1, 4, comes_to=(MESSAGE,), waits_for=(MESSAGE,)),
        span("forward", 4, 7, microbatch=0),
        span("exchange", 7, 8, comes_to=(onward,)),
    )
    last = (span("exchange", 0, 8, comes_to=(onward,), waits_for=(onward,)),)
    told = figures(ENCODER, first, last)
    assert told.ranks[2].waits_on == {1: 7}
    assert told.causes[2] == {1: 4, 0: 3}
    assert told.causes[1] == {0: 3}


def test_ranks_that_wait_for_each_other_are_an_end_too() -> None:
    """Seen where clocks differ: no chain is followed in a circle."""
    there, back = sent(0, 1), sent(1, 0)
    told = figures(
        (
            span("exchange", 0, 5, waits_for=(back,)),
            span("exchange", 5, 6, comes_to=(there, back)),
        ),
        (
            span("exchange", 0, 5, waits_for=(there,)),
            span("exchange", 5, 6, comes_to=(there, back)),
        ),
    )
    assert told.causes == {0: {1: 5}, 1: {0: 5}}


def test_what_another_rank_tells_nothing_of_is_communication() -> None:
    told = figures((), (span("exchange", 0, 2, waits_for=(MESSAGE,)),))
    assert shares(told, 1) == {"communication": 2, "other": 8}


def test_a_module_is_the_mean_of_its_ranks() -> None:
    told = figures((), (span("forward", 0, 4),), (span("forward", 0, 8), span("data", 8, 9)))
    language = told.to_json()["modules"]["language"]
    assert language["ranks"] == [1, 2]
    assert language["seconds"] == {
        "compute": 6,
        "communication": 0,
        "waiting": 0,
        "data": 0.5,
        "optimizer": 0,
        "other": 3.5,
    }


def test_a_device_and_its_host_have_a_thread_each() -> None:
    told = figures((span("forward", 2, 4, microbatch=1, host=(0.5, 0.6)),))
    slices = [one for one in chrome_trace(told)["traceEvents"] if one["ph"] == "X"]
    assert [(one["name"], one["ts"], one["dur"]) for one in slices] == [
        ("forward 1", 2e6, 2e6),
        ("forward 1", pytest.approx(0.5e6), pytest.approx(0.1e6)),
    ]
    assert slices[0]["tid"] != slices[1]["tid"]


def test_a_device_that_is_done_when_more_comes_goes_at_its_hosts_pace() -> None:
    """The first pass: given as soon as it could begin, done as soon as its end was given. The
    second was given long before."""
    passes = (
        span("forward", 1, 3, microbatch=0, host=(0.99999, 2.99999)),
        span("backward", 3, 6, microbatch=0, host=(2.99999, 3.1)),
    )
    told = figures(passes, (span("forward", 0, 1, microbatch=0),), device="cuda")
    assert told.ranks[0].at_hosts_pace == 2
    assert told.ranks[1].at_hosts_pace is None, "a CPU is its own host"
    assert list(remarks(told)) == [
        "vision computes 2000.0 of 5000.0 ms at its host's pace: the device was done before it was "
        "given more"
    ]


@pytest.mark.parametrize("ranks", [2, 64])
def test_any_number_of_ranks_is_drawn(ranks: int, tmp_path: Path) -> None:
    receive = span("exchange", 1, 7, comes_to=(MESSAGE,), waits_for=(MESSAGE,))
    rest = (span("forward", 0, 5, microbatch=0),)
    told = figures(ENCODER, (receive, span("forward", 7, 10)), *[rest] * (ranks - 2))
    draw_timeline(tmp_path / "timeline.png", told)
    picture = (tmp_path / "timeline.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    width, height = (int.from_bytes(picture[at : at + 4], "big") for at in (16, 20))
    assert width == 1950 and height < 2000
