"""The picture of a run: modules as boxes with their ranks, edges as arrows with placeholders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mimo_core.contract import LANGUAGE, Grid
from mimo_core.planning.plan import Plan
from mimo_core.planning.rank_layout import Layout, format_grid

_COLOURS = ("cyan", "magenta", "yellow", "blue", "red")
_LANGUAGE_COLOUR = "green"
_BOX_WIDTH = 31
_INNER_WIDTH = _BOX_WIDTH - 4
_MOST = 4
"""Rows and columns of ranks drawn in full."""
Index = tuple[int, int]


def run_header(plan: Plan) -> RenderableType:
    """Graph and rank map in one picture, 80 columns wide at most: encoders left, language right."""
    graph = plan.graph
    bodies = {name: _body(plan, name) for name in graph.modules}
    heights = {name: len(body) + 2 for name, body in bodies.items()}
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(graph.encoders)}
    colours[LANGUAGE] = _LANGUAGE_COLOUR

    def box(name: str, height: int) -> Panel:
        title = Text(f" {_cut(name, 12)} ", style=f"bold {colours[name]}")
        title.append(f"({_cut(graph.modules[name].plugin, 10)}) ", style="dim")
        return Panel(
            Group(*bodies[name]),
            title=title,
            title_align="left",
            border_style=colours[name],
            width=_BOX_WIDTH,
            height=height,
        )

    if not graph.encoders:
        return Group(box(LANGUAGE, heights[LANGUAGE]), _summary(plan))
    left = sum(heights[name] for name in graph.encoders)
    total = max(left, heights[LANGUAGE])
    heights[graph.encoders[-1]] += total - left
    arrows: list[RenderableType] = []
    for name in graph.encoders:
        above = heights[name] // 2 - 1
        arrow = _arrow(graph.edge_of(name).placeholder, colours[name])
        arrows += [*_blank(above), *arrow, *_blank(heights[name] - above - len(arrow))]
    table = Table.grid()
    for width in (_BOX_WIDTH, None, _BOX_WIDTH):
        table.add_column(width=width, no_wrap=True)
    table.add_row(
        Group(*(box(name, heights[name]) for name in graph.encoders)),
        Group(*arrows),
        box(LANGUAGE, total),
    )
    return Group(table, _summary(plan))


def count(number: float) -> str:
    """``632.1 M``: three digits or so, and a unit."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f}"


def span(ranks: range) -> str:
    """``ranks 0-3`` or ``rank 0``."""
    return f"ranks {ranks[0]}-{ranks[-1]}" if len(ranks) > 1 else f"rank {ranks[0]}"


def _body(plan: Plan, name: str) -> list[Text]:
    module, description = plan.graph.modules[name], plan.graph.descriptions[name]
    # An encoder's rows may be joined out of several of its layers' width.
    between = " x" if module.is_language else ", rows"
    lines = [
        Text(f"{count(description.num_parameters)} parameters"),
        Text(f"{_layers(description.num_layers)}{between} {description.hidden_size} wide"),
    ]
    if description.num_experts:
        lines.append(Text(f"{description.num_experts} experts"))
    if module.freeze:
        lines.append(Text(f"frozen: {', '.join(module.freeze)}", style="italic"))
    if module.wrappers:
        lines.append(Text(_cut(f"wrapped: {', '.join(module.wrappers)}", _INNER_WIDTH)))
    if module.precision != module.train.precision:
        lines.append(Text(module.precision))
    if module.packing:
        lines.append(Text("packed samples"))
    lines.append(Text(span(plan.layout.ranks(name)), style="bold"))
    parts = wrap(format_grid(module.grid).replace(" ", "_").replace(",_", ", "), _INNER_WIDTH)
    lines += [Text(part.replace("_", " "), style="dim") for part in parts]
    return [*lines, *_rank_map(plan.layout, name)]


def _layers(number: int) -> str:
    return f"{number} layer{'s' if number != 1 else ''}"


def _rank_map(layout: Layout, name: str) -> list[Text]:
    """Ranks as cells: a row for each pp and dp, a column for each cp and tp."""
    grid = layout.grids[name]
    columns = [(cp, tp) for cp in range(grid.cp) for tp in range(grid.tp)]
    rows = [(pp, dp) for pp in range(grid.pp) for dp in range(grid.dp)]
    digits = len(str(layout.world_size - 1))
    room = _INNER_WIDTH - len(_row_label(grid, *rows[-1]))
    shown = next((some for some in _extracts(columns) if _width(some, digits) < room), columns[-1:])
    widths = [1 if column is None else digits for column in shown]
    lines = [Text(f"┌{'┬'.join('─' * (width + 2) for width in widths)}┐")]
    for row in next(some for some in _extracts(rows) if len(some) <= _MOST):
        cells = [
            "…"
            if row is None or column is None
            else str(layout.rank_at(name, pp=row[0], dp=row[1], cp=column[0], tp=column[1]))
            for column in shown
        ]
        joined = "│".join(f" {c:>{width}} " for c, width in zip(cells, widths, strict=True))
        label = "" if row is None else _row_label(grid, *row)
        lines.append(Text(f"│{joined}│ ").append(label, style="dim"))
    return [*lines, Text(f"└{'┴'.join('─' * (width + 2) for width in widths)}┘")]


def _extracts(indices: Sequence[Index]) -> Iterator[list[Index | None]]:
    """All of a few, then shorter and shorter: ends, with ``None`` for the gap between them."""
    if len(indices) <= _MOST:
        yield list(indices)
    for head in (2, 1):
        if len(indices) > head + 1:
            yield [*indices[:head], None, indices[-1]]


def _width(columns: Sequence[Index | None], digits: int) -> int:
    return 1 + sum(3 + (1 if column is None else digits) for column in columns)


def _row_label(grid: Grid, pp: int, dp: int) -> str:
    parts = [f"pp{pp}"] if grid.pp > 1 else []
    return " ".join([*parts, f"dp{dp}"] if grid.dp > 1 else parts)


def _arrow(placeholder: str, colour: str) -> list[Text]:
    word = _cut(placeholder, 14)
    return [Text(f" {word:^16} ", style=colour), Text(f" {'─' * 15}▶ ", style=colour)]


def _blank(lines: int) -> list[Text]:
    return [Text("") for _ in range(lines)]


def _cut(word: str, most: int) -> str:
    return word if len(word) <= most else word[: most - 1] + "…"


def _summary(plan: Plan) -> Text:
    train, layout = plan.recipe.train, plan.layout
    ranks = f"{layout.world_size} rank{'s' if layout.world_size > 1 else ''}"
    data = " in ".join([*reversed([*plan.graph.data.wrappers]), plan.recipe.data.plugin])
    return Text(
        f"{layout.kind} on {ranks} · data {data} · {train.precision}\n"
        f"{train.iterations} iterations of {train.global_batch_size} samples · "
        f"sequences of {train.sequence_length}"
    )
