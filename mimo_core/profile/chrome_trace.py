"""A timeline in Chrome's trace event format, which https://ui.perfetto.dev shows.

A process for each module, a thread for each rank (and one for its host, where a device has its own
time), a slice for each span, within it what was waiting, and arrows from where a message begins to
where it is awaited. Processes and threads are counted from 1, as 0 is a system's idle one. "Trace
Event Format" of the Chromium project describes the events.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mimo_core.profile.breakdown import Arrivals, Figures, RankFigures
from mimo_core.profile.spans import Exchange, Span, Timeline

_HOST = 1_000_000
"""Added to a rank's thread: that of its host."""


def chrome_trace(figures: Figures) -> dict[str, Any]:
    """The trace, for ``json.dump``. Times are microseconds since the step's begin."""
    timeline = figures.timeline
    return {
        "traceEvents": list(_events(figures)),
        "displayTimeUnit": "ms",
        "otherData": {
            "iteration": timeline.iteration,
            "device": timeline.device,
            "step_us": timeline.seconds * 1e6,
            "clock_error_us": timeline.clock_error * 1e6,
        },
    }


def _events(figures: Figures) -> Iterator[dict[str, Any]]:
    timeline = figures.timeline
    process: dict[int, int] = {}
    for number, (name, ranks) in enumerate(figures.modules.items(), start=1):
        yield _named("process_name", name, pid=number)
        yield {**_about("process_sort_index", pid=number), "args": {"sort_index": number}}
        for rank in ranks:
            process[rank.timeline.rank] = number
            yield from _rank_events(rank, timeline, number)
    yield from _arrows(timeline, process)


def _rank_events(rank: RankFigures, timeline: Timeline, pid: int) -> Iterator[dict[str, Any]]:
    thread = _thread(rank.timeline.rank)
    yield _named("thread_name", rank.timeline.label, pid=pid, tid=thread)
    for span in rank.timeline.spans:
        yield _slice(timeline, span.begin, span.end, pid, thread, **_told(span))
    for segment in rank.segments:
        if segment.on is not None:
            told = {"name": f"waits for rank {segment.on}", "cat": "waiting"}
            yield _slice(timeline, segment.begin, segment.end, pid, thread, **told)
    if any(span.host for span in rank.timeline.spans):
        host = thread + _HOST
        name = f"host of rank {rank.timeline.rank}"
        yield _named("thread_name", name, pid=pid, tid=host)
        for span in rank.timeline.spans:
            if span.host is not None:
                yield _slice(timeline, *span.host, pid, host, **_told(span))


def _told(span: Span) -> dict[str, Any]:
    args: dict[str, Any] = {}
    if span.microbatch is not None:
        args["microbatch"] = span.microbatch
    if span.waits_for:
        args["of"] = [f"{one.what}, ranks {list(one.ranks)}" for one in span.waits_for]
    return {"name": _title(span), "cat": span.kind, "args": args}


def _title(span: Span) -> str:
    """``forward 3``."""
    return span.name if span.microbatch is None else f"{span.name} {span.microbatch}"


def _arrows(timeline: Timeline, process: dict[int, int]) -> Iterator[dict[str, Any]]:
    ends = {
        (exchange, rank.rank): span.end
        for rank in timeline.ranks
        for span in rank.spans
        for exchange in span.waits_for
    }
    for number, (exchange, came) in enumerate(Arrivals(timeline).messages()):
        source, target = exchange.ranks
        if (exchange, target) not in ends:
            continue
        end = ends[exchange, target]
        begins = _at(timeline, exchange, process[source], source, number, came[source])
        # A hair before the end: an arrow binds to the slice that it ends in.
        arrives = _at(timeline, exchange, process[target], target, number, end - 1e-9)
        yield {**begins, "ph": "s"}
        yield {**arrives, "ph": "f", "bp": "e"}


def _at(
    timeline: Timeline, exchange: Exchange, pid: int, rank: int, number: int, time: float
) -> dict[str, Any]:
    return {
        "name": exchange.what,
        "cat": "message",
        "id": number,
        "pid": pid,
        "tid": _thread(rank),
        "ts": _microseconds(timeline, time),
    }


def _thread(rank: int) -> int:
    return rank + 1


def _slice(
    timeline: Timeline, begin: float, end: float, pid: int, tid: int, **told: Any
) -> dict[str, Any]:
    first, last = _microseconds(timeline, begin), _microseconds(timeline, end)
    return {"ph": "X", "pid": pid, "tid": tid, "ts": first, "dur": last - first, **told}


def _microseconds(timeline: Timeline, time: float) -> float:
    return (time - timeline.begin) * 1e6


def _named(what: str, name: str, **place: int) -> dict[str, Any]:
    return {**_about(what, **place), "args": {"name": name}}


def _about(what: str, **place: int) -> dict[str, Any]:
    return {"ph": "M", "name": what, **place}
