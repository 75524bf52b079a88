"""A step's shares on the screen."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from mimo_core.profile.figures import SHARES, Figures, mean


def shares_table(figures: Figures) -> Table:
    """A line for each module: milliseconds and percentage of each share."""
    step = figures.timeline.seconds
    table = Table(
        title=Text(
            f"iteration {figures.timeline.iteration}: {step * 1e3:.1f} ms, of which",
            style="bold",
        ),
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="dim",
    )
    table.add_column("module", overflow="fold")
    for share in SHARES:
        table.add_column(share, justify="right", no_wrap=True)
    for name, ranks in figures.modules.items():
        shares = mean(ranks)
        cells = [f"{shares[one] * 1e3:.1f} {shares[one] / step:4.0%}" for one in SHARES]
        table.add_row(name, *cells)
    return table


def waits(figures: Figures) -> Iterator[str]:
    """A line for each module that waits: whom its ranks wait for the longest, by their mean."""
    labels = {one.timeline.rank: one.timeline.label for one in figures.ranks}
    for name, ranks in figures.modules.items():
        on: dict[int, float] = {}
        for rank in ranks:
            for other, seconds in rank.waits_on.items():
                on[other] = on.get(other, 0.0) + seconds / len(ranks)
        if on:
            longest = max(on, key=lambda rank: on[rank])
            milliseconds = f"{on[longest] * 1e3:.1f} of {sum(on.values()) * 1e3:.1f} ms"
            yield f"{name} waits {milliseconds} for {labels[longest]}"
