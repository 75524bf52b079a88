"""Records what this rank does in one step; everywhere else it costs a call that does nothing.

A process is one rank, so there is one recorder at most: code says ``with span(…)`` where something
begins and ends, and needs not be given it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import attrs

from mimo_core.profile.spans import Exchange, Kind, RankTimeline, Span

if TYPE_CHECKING:
    from mimo_core.platforms.base import Stopwatch


@attrs.define(kw_only=True, eq=False)
class _Part:
    """A span whose times are marks of a stopwatch."""

    kind: Kind
    name: str
    microbatch: int | None
    marks: list[Any] = attrs.field(factory=list)
    host: list[float] = attrs.field(factory=list)
    comes_to: list[Exchange] = attrs.field(factory=list)
    waits_for: list[Exchange] = attrs.field(factory=list)


class Recorder:
    """The spans of this rank's step. Threads may record in turns, not at once."""

    def __init__(self, rank: int, stopwatch: Stopwatch) -> None:
        self._rank = rank
        self._stopwatch = stopwatch
        self._parts: list[_Part] = []
        self._open: list[_Part] = []
        self._seen: Counter[tuple[str, tuple[int, ...]]] = Counter()
        self._ends: list[Any] = []

    @property
    def error(self) -> float:
        """Seconds by which its times may differ from this host's clock, after :meth:`timeline`."""
        return self._stopwatch.error

    def begin(self) -> None:
        """The step begins; the device is idle."""
        self._stopwatch.start()
        self._ends.append(self._stopwatch.mark())

    def end(self) -> None:
        """The step is over."""
        self._ends.append(self._stopwatch.mark())

    @contextmanager
    def span(self, kind: Kind, name: str, microbatch: int | None = None) -> Iterator[None]:
        """Record what happens inside, also where it fails."""
        part = _Part(kind=kind, name=name, microbatch=microbatch)
        self._parts.append(part)
        self._open.append(part)
        self._mark(part)
        try:
            yield
        finally:
            self._mark(part)
            self._open.remove(part)

    def come_to(self, what: str, ranks: tuple[int, ...], *, message: bool) -> Exchange:
        """This rank is ready for an exchange since the innermost open span began."""
        index = self._seen[what, ranks]
        self._seen[what, ranks] += 1
        exchange = Exchange(what=what, ranks=ranks, index=index, message=message)
        self._open[-1].comes_to.append(exchange)
        return exchange

    def wait_for(self, exchanges: Sequence[Exchange]) -> None:
        """The innermost open span ends when these are over."""
        self._open[-1].waits_for.extend(exchanges)

    def timeline(self, *, module: str, label: str, offset: float) -> RankTimeline:
        """The step, after :meth:`end`.

        Args:
            module: The rank's.
            label: The rank's, for people.
            offset: Of the timeline's clock to this host's ``time.perf_counter``.
        """
        marks = [mark for part in self._parts for mark in part.marks]
        times = [offset + second for second in self._stopwatch.seconds([*self._ends, *marks])]
        begin, end, *of_parts = times
        ends = zip(of_parts[::2], of_parts[1::2], strict=True)
        spans = tuple(
            Span(
                kind=part.kind,
                name=part.name,
                microbatch=part.microbatch,
                begin=first,
                end=last,
                comes_to=tuple(part.comes_to),
                waits_for=tuple(part.waits_for),
                host=(part.host[0] + offset, part.host[1] + offset) if part.host else None,
            )
            for part, (first, last) in zip(self._parts, ends, strict=True)
        )
        return RankTimeline(
            rank=self._rank, module=module, label=label, begin=begin, end=end, spans=spans
        )

    def _mark(self, part: _Part) -> None:
        part.marks.append(self._stopwatch.mark())
        if not self._stopwatch.on_host:
            part.host.append(time.perf_counter())


_NOTHING: AbstractContextManager[None] = nullcontext()
_recorder: Recorder | None = None


@contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Have :func:`span` and its like tell this recorder."""
    global _recorder  # noqa: PLW0603
    _recorder = recorder
    try:
        yield
    finally:
        _recorder = None


def recorder() -> Recorder | None:
    """The recorder of the step under way, if it is recorded."""
    return _recorder


def span(kind: Kind, name: str, microbatch: int | None = None) -> AbstractContextManager[None]:
    """What happens inside is a span of this rank's step, where one is recorded."""
    return _NOTHING if _recorder is None else _recorder.span(kind, name, microbatch)


def message(what: str, source: int, target: int) -> Exchange:
    """This rank begins to send or receive, in a :func:`span` of a step that is recorded."""
    assert _recorder is not None
    return _recorder.come_to(what, (source, target), message=True)


def wait_for(exchanges: Sequence[Exchange]) -> None:
    """The :func:`span` that this is called in ends when these are over."""
    if _recorder is not None:
        _recorder.wait_for(exchanges)
