"""A step as one picture: a row for each rank, what it did, and whom it waited for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from mimo_core.profile.breakdown import SHARES, Arrivals, Figures, RankFigures, Segment, mean
from mimo_core.profile.spans import Span
from mimo_core.profile.style import (
    ARROWS,
    COLORS,
    FAINT,
    HATCH,
    HATCHED,
    INK,
    PASSES,
    draw_legend,
    frame,
)
from mimo_core.utils.safe_files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH = 15.0
"""Inches."""
_TIME_WIDTH = 10.4
"""Inches of the axis of time."""
_BAR = 0.76
"""Of a row, the height that its bar takes."""
_STRIP = 0.14
"""Of a row, the strip of a pass."""
_HEAD = 1.15
"""Rows that a module's heading takes."""
_MANYARROWS = 150
_SHOWN = 0.004
"""Share of the step that a wait takes whose arrow is drawn strongly."""


@attrs.frozen(kw_only=True)
class _Rows:
    """Where ranks are, from the top down."""

    of_rank: dict[int, float]
    of_module: dict[str, float]
    total: float

    @classmethod
    def of(cls, figures: Figures) -> _Rows:
        ranks: dict[int, float] = {}
        modules: dict[str, float] = {}
        here = 0.0
        for name, members in figures.modules.items():
            modules[name] = here + _HEAD / 2
            here += _HEAD
            for rank in members:
                ranks[rank.timeline.rank] = here + 0.5
                here += 1.0
        return cls(of_rank=ranks, of_module=modules, total=here)


def draw_timeline(path: Path, figures: Figures) -> None:
    """Write the picture as PNG."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = _Rows.of(figures)
    inch = 0.46 if rows.total <= 14 else max(0.2, 6.5 / rows.total)
    with rc_context({"hatch.linewidth": 0.6, "font.size": 9}):
        figure = Figure(figsize=(_WIDTH, rows.total * inch + 1.4))
        FigureCanvasAgg(figure)
        left = 0.75 / _WIDTH
        bottom, height = 0.95 / figure.get_figheight(), rows.total * inch / figure.get_figheight()
        times = figure.add_axes((left, bottom, _TIME_WIDTH / _WIDTH, height))
        shares = figure.add_axes((left + (_TIME_WIDTH + 0.35) / _WIDTH, bottom, 0.215, height))
        _draw_times(times, figures, rows, inch)
        _draw_shares(shares, figures, rows, inch)
        step, error = figures.timeline.seconds, figures.timeline.clock_error
        clocks = f"clocks of the ranks agree to {error * 1e6:.0f} µs" if error else "one clock"
        ranks = "1 rank" if len(figures.ranks) == 1 else f"{len(figures.ranks)} ranks"
        figure.suptitle(
            f"Iteration {figures.timeline.iteration}: {step * 1e3:.1f} ms on {ranks} "
            f"({figures.timeline.device}; {clocks})",
            x=left, y=1 - 0.22 / figure.get_figheight(), ha="left", va="top",
            fontsize=12, color=INK, fontweight="bold",
        )  # fmt: skip
        draw_legend(figure)
        with replacing(path) as draft:
            figure.savefig(draft, dpi=130)


def _draw_times(axes: Axes, figures: Figures, rows: _Rows, inch: float) -> None:
    frame(axes, rows.total)
    step = figures.timeline.seconds * 1e3
    axes.set_xlim(0, step)
    axes.set_xlabel("ms since the step began", color=FAINT)
    axes.set_yticks(list(rows.of_rank.values()), [str(rank) for rank in rows.of_rank])
    axes.set_ylabel("rank", color=FAINT)
    for name, members in figures.modules.items():
        of_step = {share: part * 1e3 / step for share, part in mean(members).items()}
        told = (
            f"waiting {of_step['waiting']:.0%}, exposed communication "
            f"{of_step['communication']:.0%}, computing {of_step['compute']:.0%}"
        )
        height = rows.of_module[name] + 0.12
        # Legible over the arrows.
        box = {"fc": "white", "ec": "none", "pad": 1.5, "alpha": 0.85}
        look: dict[str, Any] = {"va": "center", "zorder": 6, "bbox": box}
        heading = axes.text(0, height, name, fontweight="bold", color=INK, **look)
        axes.annotate(
            told, (1, 0.5), xycoords=heading, xytext=(10, 0), textcoords="offset points",
            color=FAINT, **look,
        )  # fmt: skip
    for rank in figures.ranks:
        _draw_rank(axes, rank, figures, rows.of_rank[rank.timeline.rank], inch)
    _draw_arrows(axes, figures, rows)


def _draw_rank(axes: Axes, rank: RankFigures, figures: Figures, at: float, inch: float) -> None:
    row = _Row(axes=axes, figures=figures, at=at, size=min(8.5, inch * 72 * _BAR * 0.6))
    passes = {
        kind: [(one.begin, one.end) for one in rank.timeline.spans if one.kind == kind]
        for kind in PASSES
    }
    for kind, parts in passes.items():
        row.bars(parts, COLORS[kind], edgecolor="white", linewidth=0.5)
    for share in SHARES:
        if share != "compute":
            parts = [(one.begin, one.end) for one in rank.segments if one.share == share]
            row.bars(parts, COLORS[share], **(HATCHED if share == "waiting" else {}))
    for kind, parts in passes.items():
        # Over the collectives in a pass, a strip says whose they are.
        row.bars(parts, COLORS[kind], height=_STRIP, zorder=2)
    for one in rank.timeline.spans:
        if one.kind in PASSES:
            label = {"fc": COLORS[one.kind], "ec": "none", "pad": 1.2}
            number = one.name if one.microbatch is None else str(one.microbatch)
            row.text(one.begin, one.end, [number], color="white", bbox=label)
    for wait in _waits(rank.segments):
        words = [f"waits for {wait.on}", f"→ {wait.on}", f"{wait.on}"]
        row.text(wait.begin, wait.end, words, color=INK)


@attrs.frozen(kw_only=True)
class _Row:
    """A rank's row: times in seconds of the timeline become milliseconds of the step."""

    axes: Axes
    figures: Figures
    at: float
    size: float
    """Of letters, in points."""
    taken: list[tuple[float, float]] = attrs.field(factory=list)
    """Where words are, in points."""

    def bars(
        self,
        parts: list[tuple[float, float]],
        color: str,
        *,
        height: float = _BAR,
        linewidth: float = 0.0,
        **look: Any,
    ) -> None:
        """Bars of this height, from the row's upper edge down."""
        begin = self.figures.timeline.begin
        spans = [((first - begin) * 1e3, (last - first) * 1e3) for first, last in parts]
        if spans:
            place = (self.at - _BAR / 2, height)
            self.axes.broken_barh(spans, place, facecolor=color, linewidth=linewidth, **look)

    def text(self, first: float, last: float, choices: list[str], **look: Any) -> None:
        """The first of the choices that fits in between, where no other word is."""
        timeline = self.figures.timeline
        points = _TIME_WIDTH * 72 / timeline.seconds
        middle = (first + last) / 2 - timeline.begin
        for word in choices:
            width = len(word) * self.size * 0.58 + 3
            left, right = middle * points - width / 2, middle * points + width / 2
            free = all(right <= begin or end <= left for begin, end in self.taken)
            if width <= (last - first) * points and free:
                self.taken.append((left, right))
                self.axes.text(
                    middle * 1e3, self.at, word, ha="center", va="center_baseline",
                    fontsize=self.size, clip_on=True, zorder=5, **look,
                )  # fmt: skip
                return


def _waits(segments: tuple[Segment, ...]) -> list[Segment]:
    """Waits, those for one rank that follow each other as one."""
    found: list[Segment] = []
    for one in segments:
        if one.on is None:
            continue
        if found and found[-1].on == one.on and found[-1].end == one.begin:
            found[-1] = attrs.evolve(found[-1], end=one.end)
        else:
            found.append(one)
    return found


def _draw_arrows(axes: Axes, figures: Figures, rows: _Rows) -> None:
    """From where a message begins to where it is there; strong where it was waited for."""
    from matplotlib.patches import FancyArrowPatch

    begin, step = figures.timeline.begin, figures.timeline.seconds
    arrivals = Arrivals(figures.timeline)
    awaited: dict[Any, tuple[Span, float]] = {}
    for rank in figures.ranks:
        waited = {id(one.span): one.seconds for one in rank.segments if one.on is not None}
        for span in rank.timeline.spans:
            for exchange in span.waits_for:
                awaited[exchange, rank.timeline.rank] = span, waited.get(id(span), 0.0)
    found = []
    for exchange, came in arrivals.messages():
        source, target = exchange.ranks
        if (exchange, target) in awaited:
            span, waited_for = awaited[exchange, target]
            last = arrivals.last(span, target)
            held = waited_for > _SHOWN * step and last is not None and last[1] == source
            found.append((held, exchange.what, source, target, came[source], span.end))
    for held, what, source, target, sent, there in found:
        if not held and len(found) > _MANYARROWS:
            continue
        down = 1 if rows.of_rank[target] > rows.of_rank[source] else -1
        axes.add_patch(
            FancyArrowPatch(
                ((sent - begin) * 1e3, rows.of_rank[source] + down * _BAR / 2),
                ((there - begin) * 1e3, rows.of_rank[target] - down * _BAR / 2),
                arrowstyle="-|>", mutation_scale=7, shrinkA=0, shrinkB=0,
                linewidth=1.0 if held else 0.5, alpha=0.9 if held else 0.3,
                color=ARROWS[what.partition(" ")[0]], zorder=4,
            )
        )  # fmt: skip


def _draw_shares(axes: Axes, figures: Figures, rows: _Rows, inch: float) -> None:
    """Each rank's shares of the step, beside its row."""
    frame(axes, rows.total)
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of the step", color=FAINT)
    axes.set_yticks([])
    size = min(8.0, inch * 72 * _BAR * 0.55)
    for rank in figures.ranks:
        here, row = 0.0, rows.of_rank[rank.timeline.rank]
        for name, seconds in _painted(rank).items():
            part = 100 * seconds / figures.timeline.seconds
            waiting = name == "waiting"
            axes.barh(
                row, part, _BAR, left=here, linewidth=0, color=COLORS[name],
                hatch="/////" if waiting else None, edgecolor=HATCH if waiting else None,
            )  # fmt: skip
            if part >= 7:
                color = INK if name in ("waiting", "other") else "white"
                axes.text(
                    here + part / 2, row, f"{part:.0f}", ha="center", va="center_baseline",
                    fontsize=size, color=color,
                )  # fmt: skip
            here += part


def _painted(rank: RankFigures) -> dict[str, float]:
    """Seconds by the colors' names: computing is in two."""
    found = dict.fromkeys(COLORS, 0.0)
    for segment in rank.segments:
        of_pass = segment.span.kind if segment.span and segment.share == "compute" else None
        found[of_pass or segment.share] += segment.seconds
    return found
