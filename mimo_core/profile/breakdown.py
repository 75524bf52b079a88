"""Where a step's time went, on each rank and in each module: shares that add up to the step.

The step is the time from the first rank's begin to the last rank's end, the same for all. On every
rank each moment of it belongs to one share, that of the innermost span that it is in:

- ``compute``: a forward or backward pass.
- ``waiting``, the bubble: within a message or collective that this rank needs to go on, the time
  until the last of the others has come to it: another rank still computes, and this one has nothing
  to do. A rank comes to a message when it has computed what it sends, or can receive. At the step's
  end, the time until the last rank's end.
- ``communication``, exposed: the rest of such a message or collective, when all have come, and what
  it takes to begin those that are not awaited at once.
- ``data``: waiting for the next batch of the rank's own loader.
- ``optimizer``: the optimizer's step and what finalizes gradients, beside the collectives in them.
- ``other``: what is in no span: the schedule's own work, zeroing of gradients, the host being slow.

Communication that computation hides is in no share: it costs no time. A module's shares are the
mean of its ranks', and so add up to the step as well.

A rank that is waited for may wait itself. The *cause* of a wait is, at each moment of it, the rank
at the end of that chain: one that does not wait.

A device computes what its host gives it. Where it has done everything already when a piece of
computing begins, and again when it ends, it went at the *host's pace*, and was idle for some of it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import attrs

from mimo_core.profile.spans import Exchange, Kind, RankTimeline, Span, Timeline

Share = Literal["compute", "communication", "waiting", "data", "optimizer", "other"]
SHARES: tuple[Share, ...] = (
    "compute",
    "communication",
    "waiting",
    "data",
    "optimizer",
    "other",
)
_OWN: Mapping[Kind, Share] = {
    "forward": "compute",
    "backward": "compute",
    "exchange": "communication",
    "data": "data",
    "gradients": "optimizer",
    "optimizer": "optimizer",
}


_AHEAD = 100e-6
"""Seconds that a host is at least ahead of a device that has something to do: a few launches."""


@attrs.frozen(kw_only=True)
class Segment:
    """A part of a rank's step that belongs to one share."""

    share: Share
    begin: float
    end: float
    span: Span | None = None
    """The innermost one that it is in."""
    on: int | None = None
    """Waiting: the rank that is waited for."""

    @property
    def seconds(self) -> float:
        return self.end - self.begin


@attrs.frozen(kw_only=True)
class RankFigures:
    """One rank's step."""

    timeline: RankTimeline
    segments: tuple[Segment, ...]
    """One after the other, from the step's begin to its end."""

    @property
    def shares(self) -> dict[Share, float]:
        """Seconds of each share; together the step's."""
        return {
            share: sum(one.seconds for one in self.segments if one.share == share)
            for share in SHARES
        }

    @property
    def waits_on(self) -> dict[int, float]:
        """Seconds by the rank that is waited for, the longest first."""
        found: dict[int, float] = {}
        for one in self.segments:
            if one.on is not None:
                found[one.on] = found.get(one.on, 0.0) + one.seconds
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    @property
    def at_hosts_pace(self) -> float | None:
        """Seconds of computing at the host's pace; ``None`` where there is no device."""
        ahead: dict[float, float] = {}
        for span in self.timeline.spans:
            if span.host is None:
                return None
            for done, given in zip((span.begin, span.end), span.host, strict=True):
                # Of marks at one moment, the first was given when the device could get to it.
                ahead[done] = max(done - given, ahead.get(done, 0.0))
        return sum(
            one.seconds
            for one in self.segments
            if one.share == "compute" and max(ahead[one.begin], ahead[one.end]) < _AHEAD
        )


@attrs.frozen(kw_only=True)
class Figures:
    """A step, divided."""

    timeline: Timeline
    ranks: tuple[RankFigures, ...]

    @classmethod
    def of(cls, timeline: Timeline) -> Figures:
        """Divide every rank's step."""
        arrivals = Arrivals(timeline)
        ranks = tuple(
            RankFigures(timeline=rank, segments=tuple(_segments(rank, timeline, arrivals)))
            for rank in timeline.ranks
        )
        return cls(timeline=timeline, ranks=ranks)

    @property
    def causes(self) -> dict[int, dict[int, float]]:
        """By rank: seconds that it waits, by the rank that is the cause, the longest first."""
        by_rank = {one.timeline.rank: one.segments for one in self.ranks}
        found: dict[int, dict[int, float]] = {}
        for rank, segments in by_rank.items():
            seconds: dict[int, float] = {}
            for one in segments:
                if one.on is not None:
                    for cause, part in _causes(by_rank, one.on, one.begin, one.end, {rank}):
                        seconds[cause] = seconds.get(cause, 0.0) + part
            found[rank] = dict(sorted(seconds.items(), key=lambda item: -item[1]))
        return found

    @property
    def modules(self) -> dict[str, list[RankFigures]]:
        """Ranks by module."""
        by_rank = {one.timeline.rank: one for one in self.ranks}
        return {
            name: [by_rank[rank.rank] for rank in ranks]
            for name, ranks in self.timeline.modules.items()
        }

    def to_json(self) -> dict[str, Any]:
        """What ``figures.json`` holds."""
        step, causes = self.timeline.seconds, self.causes
        return {
            "iteration": self.timeline.iteration,
            "device": self.timeline.device,
            "step_seconds": step,
            "clock_error_seconds": self.timeline.clock_error,
            "modules": {
                name: {
                    "ranks": [one.timeline.rank for one in ranks],
                    "seconds": mean(ranks),
                    "bubble_fraction": mean(ranks)["waiting"] / step,
                    "exposed_communication_fraction": mean(ranks)["communication"] / step,
                }
                for name, ranks in self.modules.items()
            },
            "ranks": [
                {
                    "rank": one.timeline.rank,
                    "label": one.timeline.label,
                    "seconds": one.shares,
                    "compute_at_hosts_pace_seconds": one.at_hosts_pace,
                    "waits_on_seconds": _named(one.waits_on),
                    "caused_by_seconds": _named(causes[one.timeline.rank]),
                }
                for one in self.ranks
            ],
        }


def _named(seconds: Mapping[int, float]) -> dict[str, float]:
    return {str(rank): time for rank, time in seconds.items()}


def _causes(
    by_rank: Mapping[int, Sequence[Segment]], rank: int, begin: float, end: float, asked: set[int]
) -> Iterator[tuple[int, float]]:
    """Who keeps ``rank`` from coming, from ``begin`` to ``end``: causes and seconds."""
    segments = by_rank[rank]
    for segment in segments[max(bisect_right(segments, begin, key=_begin) - 1, 0) :]:
        first, last = max(begin, segment.begin), min(end, segment.end)
        if segment.begin >= end:
            break
        if segment.on is None or segment.on in asked or segment.on == rank:
            yield rank, last - first
        else:
            yield from _causes(by_rank, segment.on, first, last, asked | {rank})


def _begin(segment: Segment) -> float:
    return segment.begin


def mean(ranks: Sequence[RankFigures]) -> dict[Share, float]:
    """Shares of a module, in seconds."""
    every = [rank.shares for rank in ranks]
    return {share: sum(one[share] for one in every) / len(every) for share in SHARES}


class Arrivals:
    """When each rank came to each exchange."""

    def __init__(self, timeline: Timeline) -> None:
        self._came: dict[Exchange, dict[int, float]] = {}
        for rank in timeline.ranks:
            for span in rank.spans:
                for exchange in span.comes_to:
                    self._came.setdefault(exchange, {})[rank.rank] = span.begin

    def last(self, span: Span, rank: int) -> tuple[float, int] | None:
        """When the last of the other ranks came to what the span waits for, and which it was.

        ``None`` where it waits for nothing, or for ranks whose step tells nothing of it.
        """
        others = [
            (came, other)
            for exchange in span.waits_for
            for other, came in self._came.get(exchange, {}).items()
            if other != rank
        ]
        return max(others, default=None)

    def messages(self) -> Iterator[tuple[Exchange, dict[int, float]]]:
        """Messages that both ends came to, and when."""
        for exchange, came in self._came.items():
            if exchange.message and len(came) == len(exchange.ranks):
                yield exchange, came


def _segments(rank: RankTimeline, timeline: Timeline, arrivals: Arrivals) -> Iterator[Segment]:
    yield from _some(Segment(share="other", begin=timeline.begin, end=rank.begin))
    for begin, end, span in innermost(rank):
        if span is None:
            yield from _some(Segment(share="other", begin=begin, end=end))
            continue
        last = arrivals.last(span, rank.rank)
        here = begin
        if last is not None:
            here = min(max(last[0], begin), end)
            yield from _some(Segment(share="waiting", begin=begin, end=here, span=span, on=last[1]))
        yield from _some(Segment(share=_OWN[span.kind], begin=here, end=end, span=span))
    slowest = max(timeline.ranks, key=lambda one: one.end)
    yield from _some(Segment(share="waiting", begin=rank.end, end=timeline.end, on=slowest.rank))


def _some(segment: Segment) -> Iterator[Segment]:
    """The segment, where it takes time."""
    if segment.end > segment.begin:
        yield segment


def innermost(rank: RankTimeline) -> Iterator[tuple[float, float, Span | None]]:
    """Begin, end, and the innermost span in between, from the rank's begin to its end."""
    moments: list[tuple[float, Span | None]] = [(rank.begin, None)]
    around: list[Span] = []
    for span in rank.spans:
        _close(around, span.begin, moments)
        around.append(span)
        moments.append((span.begin, span))
    _close(around, rank.end, moments)
    moments.append((rank.end, None))
    for (begin, span_now), (end, _) in pairwise(moments):
        if end > begin:
            yield begin, end, span_now


def _close(around: list[Span], until: float, moments: list[tuple[float, Span | None]]) -> None:
    """Leave the spans that end before ``until``, the innermost first."""
    while around and around[-1].end <= until:
        ended = around.pop()
        moments.append((ended.end, around[-1] if around else None))
