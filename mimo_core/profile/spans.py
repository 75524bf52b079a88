"""What a rank did in an iteration: spans of time, and the exchanges with other ranks in them."""

from __future__ import annotations

from typing import Literal

import attrs

Kind = Literal["forward", "backward", "exchange", "data", "gradients", "optimizer"]
"""``exchange``: a message or a collective begins, or is waited for. ``gradients``: what finalizes
them, beside the collectives in it."""


@attrs.frozen(kw_only=True)
class Exchange:
    """A message, or a collective: what several ranks must come to before any of them has it.

    Ranks that count alike name it alike.
    """

    what: str
    """Such as ``rows of vision`` or ``all_reduce``."""
    ranks: tuple[int, ...]
    """World ranks: of a message source and target, of a collective all members."""
    index: int
    """Among those of the step with the same ``what`` and ``ranks``."""
    message: bool
    """One rank sends to another; else a collective."""


@attrs.frozen(kw_only=True)
class Span:
    """A part of a rank's step. Spans of a rank are disjoint, or one is within the other.

    Times are seconds, by the clock of the whole timeline.
    """

    kind: Kind
    name: str
    begin: float
    end: float
    microbatch: int | None = None
    """Of a forward or backward pass, from 0 on."""
    comes_to: tuple[Exchange, ...] = ()
    """Exchanges that this rank is ready for from the span's begin on."""
    waits_for: tuple[Exchange, ...] = ()
    """Exchanges that are over when the span ends."""
    host: tuple[float, float] | None = None
    """Begin and end of the code on the host, where the times are a device's."""


@attrs.frozen(kw_only=True)
class RankTimeline:
    """One rank's step."""

    rank: int
    module: str
    label: str
    """Rank, module and place in its grid, for people."""
    begin: float
    end: float
    spans: tuple[Span, ...]
    """By their begin; a span comes before those within it."""


@attrs.frozen(kw_only=True)
class Timeline:
    """One training iteration of all ranks."""

    iteration: int
    ranks: tuple[RankTimeline, ...]
    """By rank."""
    clock_error: float
    """Seconds by which the clocks of two ranks may differ at most."""
    device: str
    """``cpu`` or ``cuda``: whose time it is."""

    @property
    def begin(self) -> float:
        """When the first rank began."""
        return min(rank.begin for rank in self.ranks)

    @property
    def end(self) -> float:
        """When the last rank ended."""
        return max(rank.end for rank in self.ranks)

    @property
    def seconds(self) -> float:
        """The step's time, the same for all ranks."""
        return self.end - self.begin

    @property
    def modules(self) -> dict[str, list[RankTimeline]]:
        """Ranks by module, in the order of their first ranks."""
        found: dict[str, list[RankTimeline]] = {}
        for rank in self.ranks:
            found.setdefault(rank.module, []).append(rank)
        return found
