"""A step as one picture: a row for each rank, what it did, and whom it waited for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from mimo_core.profile.figures import SHARES, Arrivals, Figures, RankFigures, Segment, mean
from mimo_core.profile.spans import Span

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = {
    "forward": "#5b8fd9",
    "backward": "#2c4f8c",
    "communication": "#f08c2e",
    "waiting": "#eef0f3",
    "data": "#9b6fc9",
    "optimizer": "#4fae7b",
    "other": "#c9ccd1",
}
_HATCH, _INK, _FAINT = "#b4bac4", "#2b2f36", "#8a919d"
_ARROWS = {"rows": "#b0322b", "activations": "#b0322b", "gradients": "#77801f"}
_WIDTH = 15.0
"""Inches."""
_TIME_WIDTH = 10.4
"""Inches of the axis of time."""
_BAR = 0.76
"""Of a row, the height that its bar takes."""
_HEAD = 1.15
"""Rows that a module's heading takes."""
_MANY_ARROWS = 300
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
        figure.suptitle(
            f"Iteration {figures.timeline.iteration}: {step * 1e3:.1f} ms on "
            f"{len(figures.ranks)} ranks ({figures.timeline.device}; {clocks})",
            x=left, y=1 - 0.22 / figure.get_figheight(), ha="left", va="top",
            fontsize=12, color=_INK, fontweight="bold",
        )  # fmt: skip
        _draw_legend(figure)
        figure.savefig(path, dpi=130)


def _draw_times(axes: Axes, figures: Figures, rows: _Rows, inch: float) -> None:
    _frame(axes, rows)
    step = figures.timeline.seconds * 1e3
    axes.set_xlim(0, step)
    axes.set_xlabel("ms since the step began", color=_FAINT)
    axes.set_yticks(list(rows.of_rank.values()), [str(rank) for rank in rows.of_rank])
    axes.set_ylabel("rank", color=_FAINT)
    for name, members in figures.modules.items():
        of_step = {share: part * 1e3 / step for share, part in mean(members).items()}
        told = (
            f"waiting {of_step['waiting']:.0%}, exposed communication "
            f"{of_step['communication']:.0%}, computing {of_step['compute']:.0%}"
        )
        height = rows.of_module[name] + 0.12
        # Legible over the arrows.
        look: dict[str, Any] = {
            "va": "center", "zorder": 6, "bbox": {"fc": "white", "ec": "none", "pad": 1.5}
        }  # fmt: skip
        heading = axes.text(0, height, name, fontweight="bold", color=_INK, **look)
        axes.annotate(
            told, (1, 0.5), xycoords=heading, xytext=(10, 0), textcoords="offset points",
            color=_FAINT, **look,
        )  # fmt: skip
    for rank in figures.ranks:
        _draw_rank(axes, rank, figures, rows.of_rank[rank.timeline.rank], inch)
    _draw_arrows(axes, figures, rows)


def _draw_rank(axes: Axes, rank: RankFigures, figures: Figures, row: float, inch: float) -> None:
    begin, step = figures.timeline.begin, figures.timeline.seconds

    def bars(parts: list[tuple[float, float]], color: str, **look: Any) -> None:
        spans = [((first - begin) * 1e3, (last - first) * 1e3) for first, last in parts]
        if spans:
            axes.broken_barh(spans, (row - _BAR / 2, _BAR), facecolor=color, **look)

    size = min(8.5, inch * 72 * _BAR * 0.6)

    def text(first: float, last: float, *choices: str, color: str) -> None:
        """The first of the choices that fits."""
        room = (last - first) / step * _TIME_WIDTH * 72 - 3
        fits = [word for word in choices if len(word) * size * 0.58 <= room]
        if fits:
            middle = ((first + last) / 2 - begin) * 1e3
            axes.text(
                middle, row, fits[0], ha="center", va="center_baseline", fontsize=size,
                color=color, clip_on=True, zorder=5,
            )  # fmt: skip

    for kind in ("forward", "backward"):
        passes = [one for one in rank.timeline.spans if one.kind == kind]
        look = {"edgecolor": "white", "linewidth": 0.5}
        bars([(one.begin, one.end) for one in passes], _COLORS[kind], **look)
    for share in SHARES:
        if share != "compute":
            parts = [(one.begin, one.end) for one in rank.segments if one.share == share]
            hatched = {"hatch": "/////", "edgecolor": _HATCH, "linewidth": 0}
            bars(parts, _COLORS[share], **(hatched if share == "waiting" else {"linewidth": 0}))
    for segment in _joined(rank.segments):
        if segment.on is not None:
            waits = f"waits for {segment.on}"
            text(segment.begin, segment.end, waits, f"→ {segment.on}", f"{segment.on}", color=_INK)
        elif segment.share == "compute" and segment.span is not None:
            number = segment.span.microbatch
            words = [] if number is None else [str(number)]
            text(segment.begin, segment.end, *words, color="white")


def _joined(segments: tuple[Segment, ...]) -> Iterator[Segment]:
    """What is to be named: waits for one rank that follow each other as one, and of each pass the
    longest part."""
    longest: dict[int, Segment] = {}
    waits: list[Segment] = []
    for segment in segments:
        if segment.on is not None:
            before = waits[-1] if waits else None
            if before and before.on == segment.on and before.end == segment.begin:
                waits[-1] = attrs.evolve(before, end=segment.end)
            else:
                waits.append(segment)
        elif segment.share == "compute":
            known = longest.get(id(segment.span))
            if known is None or known.seconds < segment.seconds:
                longest[id(segment.span)] = segment
    yield from waits
    yield from longest.values()


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
        if not held and len(found) > _MANY_ARROWS:
            continue
        down = 1 if rows.of_rank[target] > rows.of_rank[source] else -1
        axes.add_patch(
            FancyArrowPatch(
                ((sent - begin) * 1e3, rows.of_rank[source] + down * _BAR / 2),
                ((there - begin) * 1e3, rows.of_rank[target] - down * _BAR / 2),
                arrowstyle="-|>", mutation_scale=7, shrinkA=0, shrinkB=0,
                linewidth=1.0 if held else 0.5, alpha=0.9 if held else 0.3,
                color=_ARROWS[what.partition(" ")[0]], zorder=4,
            )
        )  # fmt: skip


def _draw_shares(axes: Axes, figures: Figures, rows: _Rows, inch: float) -> None:
    """Each rank's shares of the step, beside its row."""
    _frame(axes, rows)
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of the step", color=_FAINT)
    axes.set_yticks([])
    size = min(8.0, inch * 72 * _BAR * 0.55)
    for rank in figures.ranks:
        here, row = 0.0, rows.of_rank[rank.timeline.rank]
        for name, seconds in _painted(rank).items():
            part = 100 * seconds / figures.timeline.seconds
            waiting = name == "waiting"
            axes.barh(
                row, part, _BAR, left=here, linewidth=0, color=_COLORS[name],
                hatch="/////" if waiting else None, edgecolor=_HATCH if waiting else None,
            )  # fmt: skip
            if part >= 7:
                color = _INK if name in ("waiting", "other") else "white"
                axes.text(
                    here + part / 2, row, f"{part:.0f}", ha="center", va="center_baseline",
                    fontsize=size, color=color,
                )  # fmt: skip
            here += part


def _painted(rank: RankFigures) -> dict[str, float]:
    """Seconds by the colors' names: computing is in two."""
    found = dict.fromkeys(_COLORS, 0.0)
    for segment in rank.segments:
        of_pass = segment.span.kind if segment.span and segment.share == "compute" else None
        found[of_pass or segment.share] += segment.seconds
    return found


def _frame(axes: Axes, rows: _Rows) -> None:
    axes.set_ylim(rows.total, 0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_FAINT)
    axes.tick_params(length=0, colors=_FAINT)
    axes.grid(axis="x", color="#e7e9ed", linewidth=0.6)
    axes.set_axisbelow(True)


def _draw_legend(figure: Any) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    words = {
        "forward": "forward, by microbatch",
        "backward": "backward",
        "communication": "exposed communication",
        "waiting": "waits for a rank",
        "data": "data",
        "optimizer": "optimizer",
        "other": "other",
    }
    handles: list[Any] = [
        Patch(
            facecolor=_COLORS[name], label=label, linewidth=0,
            hatch="/////" if name == "waiting" else None, edgecolor=_HATCH,
        )
        for name, label in words.items()
    ]  # fmt: skip
    for name, label in (("rows", "rows, activations"), ("gradients", "gradients")):
        handles.append(Line2D([], [], color=_ARROWS[name], marker=">", markersize=4, label=label))
    figure.legend(
        handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=8.5,
        labelcolor=_INK, columnspacing=1.4, handlelength=1.4,
    )  # fmt: skip
