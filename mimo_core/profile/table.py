"""A step's shares on the screen."""

from __future__ import annotations

import os
from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from mimo_core.profile.breakdown import SHARES, Figures, mean

_WORTH_TELLING = 0.1


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


def remarks(figures: Figures) -> Iterator[str]:
    """What a person should know of each module beside its shares, a line each."""
    yield from _waits(figures)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if figures.timeline.device == "cpu" and cores and len(figures.ranks) > cores:
        yield (
            f"{len(figures.ranks)} ranks share {cores} cores: the time that a rank is kept from "
            "running counts where it stood"
        )
    for name, ranks in figures.modules.items():
        slow = sum(rank.at_hosts_pace or 0.0 for rank in ranks) / len(ranks)
        computing = mean(ranks)["compute"]
        if slow > _WORTH_TELLING * computing:
            yield (
                f"{name} computes {slow * 1e3:.1f} of {computing * 1e3:.1f} ms at its host's pace: "
                "the device was done before it was given more"
            )


def _waits(figures: Figures) -> Iterator[str]:
    """Of each module that waits: because of which rank the longest, by its ranks' mean."""
    labels = {one.timeline.rank: one.timeline.label for one in figures.ranks}
    causes = figures.causes
    for name, ranks in figures.modules.items():
        of_module: dict[int, float] = {}
        for rank in ranks:
            for cause, seconds in causes[rank.timeline.rank].items():
                of_module[cause] = of_module.get(cause, 0.0) + seconds / len(ranks)
        if of_module:
            most = max(of_module, key=lambda rank: of_module[rank])
            waited = sum(of_module.values()) * 1e3
            yield (
                f"{name} waits {waited:.1f} ms, {of_module[most] * 1e3:.1f} of them because of "
                f"{labels[most]}"
            )
