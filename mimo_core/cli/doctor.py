"""``mimo doctor`` on the screen."""

from __future__ import annotations

from itertools import groupby

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mimo_core.doctor import Report
from mimo_core.doctor.findings import Verdict

_MARKS: dict[Verdict, tuple[str, str]] = {
    "good": ("✓", "green"),
    "note": ("·", "yellow"),
    "wrong": ("✗", "red"),
}


def doctor_screen(report: Report) -> RenderableType:
    """One screen: every finding with its mark, and what is wrong once more at the end."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for name in ("section", "mark", "what", "found"):
        table.add_column(name, overflow="fold", no_wrap=name in ("section", "mark", "what"))
    for section, findings in groupby(report.findings, key=lambda finding: finding.section):
        for at, one in enumerate(findings):
            mark, colour = _MARKS[one.verdict]
            found = Text(one.found)
            if one.remedy:
                found.append(f"\n{one.remedy}", style="cyan")
            heading = Text(section if at == 0 else "", style="bold")
            table.add_row(heading, Text(mark, style=colour), one.what, found)
    return Group(table, Text(), _verdict(report))


def _verdict(report: Report) -> Text:
    if not report.wrong:
        return Text("nothing is wrong", style="bold green")
    names = ", ".join(dict.fromkeys(one.what for one in report.wrong))
    return Text(f"wrong: {names}", style="bold red")
