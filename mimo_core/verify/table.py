"""A verdict on the terminal, and as JSON."""

from __future__ import annotations

from typing import Any

import attrs
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mimo_core.reporting.run_directory import finite
from mimo_core.verify.compare import Row, Verdict


def verdict_table(verdict: Verdict) -> RenderableType:
    """Every quantity of every step, and what follows from them."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for at, heading in enumerate(
        ("step", "quantity", "module", "one rank", "layout", "difference", "tolerance", "")
    ):
        right = at in (0, 3, 4, 5, 6)
        table.add_column(
            heading, justify="right" if right else "left", overflow="fold", no_wrap=at == 1
        )
    for row in verdict.rows:
        table.add_row(
            str(row.step),
            row.quantity,
            row.module or "all",
            f"{row.judge:.4g}",
            f"{row.layout:.4g}",
            f"{row.difference:.1e}",
            f"{row.tolerance:.0e}",
            _mark(row.equal),
        )
    frozen = [
        Text.assemble(_mark(kept), f" {part} is frozen: ", "no" if kept else "some", " bit changed")
        for part, kept in verdict.frozen.items()
    ]
    wrong = [row for row in verdict.rows if not row.equal]
    return Group(table, *frozen, Text(), *_farthest(verdict), _conclusion(verdict, wrong))


def _farthest(verdict: Verdict) -> list[Text]:
    """The parameter of each module whose gradient differs most."""
    worst: dict[str, Row] = {}
    for row in verdict.rows:
        if row.module and row.parameter:
            so_far = worst.setdefault(row.module, row)
            worst[row.module] = max(so_far, row, key=lambda one: one.difference)
    return [
        Text(f"gradients of {module} differ most in {row.parameter}, step {row.step}", style="dim")
        for module, row in worst.items()
        if row.difference
    ]


def verdict_as_dict(verdict: Verdict) -> dict[str, Any]:
    """What ``mimo verify --json`` prints."""
    return {
        "equal": verdict.equal,
        "worst": finite(verdict.worst),
        "frozen": dict(verdict.frozen),
        "rows": [
            finite(attrs.asdict(row)) | {"tolerance": row.tolerance, "equal": row.equal}
            for row in verdict.rows
        ],
    }


def _mark(good: bool) -> Text:
    return Text("✓", style="green") if good else Text("✗", style="bold red")


def _conclusion(verdict: Verdict, wrong: list[Row]) -> Text:
    if verdict.equal:
        return Text("equal: this layout trains as one rank does", style="bold green")
    if not wrong:
        return Text("NOT equal: a frozen part changed", style="bold red")
    first = wrong[0]
    where = f" of {first.module}" if first.module else ""
    where += f" ({first.parameter})" if first.parameter else ""
    later = (
        ". The first step is equal: entries of which rounding is all move by a whole step of the "
        "optimizer, and later gradients tell of it. Rounding is the cause where a smaller "
        "train.learning_rate (1e-4) makes the layout equal"
        if first.step > 1
        else ""
    )
    return Text(
        f"NOT equal: {len(wrong)} of {len(verdict.rows)} values differ by more than rounding, the "
        f"{first.quantity}{where} in step {first.step} first. A module that draws random numbers "
        "(dropout, random crops) is never equal, nor is one whose router balances experts over "
        "other samples (a balancing loss, with dp above 1): turn that off by its options"
        f"{later}",
        style="bold red",
    )
