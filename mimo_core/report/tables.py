"""Tables of a plan: what its ranks hold, and what fills its sequences."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from mimo_core.memory import rank_memory
from mimo_core.plan import Plan
from mimo_core.report.header import count


def memory_table(plan: Plan) -> Table:
    """Parameters, and bytes of weights, gradients and optimizer state, on each kind of rank."""
    table = _table("on each rank, activations not counted")
    headings = ("ranks", "module", "parameters", "weights", "gradients", "optimizer", "together")
    for at, heading in enumerate(headings):
        table.add_column(
            heading, justify="right" if at > 1 else "left", no_wrap=at != 1, overflow="fold"
        )
    for held in rank_memory(plan.graph, plan.layout):
        table.add_row(
            between((held.ranks[0], held.ranks[-1])),
            held.module,
            count(held.parameters),
            *map(amount, (held.weights, held.gradients, held.optimizer, held.total)),
        )
    return table


def positions_table(plan: Plan) -> Table:
    """Positions by source of the samples that the dataset's plugin shows, and how many fit."""
    samples = plan.preview
    assert samples, "the dataset's plugin shows no samples"
    length = plan.recipe.train.sequence_length
    longest = max(samples, key=lambda counts: counts.total)
    shown = "1 sample" if len(samples) == 1 else f"{len(samples)} samples"
    table = _table(f"positions of {shown} that plugin {plan.graph.data.plugin!r} shows")
    table.add_column("source")
    table.add_column("positions", justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for encoder in plan.graph.encoders:
        spread = between(span(counts.encoders[encoder] for counts in samples))
        table.add_row(encoder, spread, plan.graph.edge_of(encoder).placeholder)
    learned = between(span(counts.learned for counts in samples))
    table.add_row("text", between(span(c.text for c in samples)), f"{learned} labels learned")
    table.add_row(
        "together",
        between(span(counts.total for counts in samples)),
        f"of sequence_length {length}; the longest, {longest.sample}, fills "
        f"{longest.total / length:.0%}",
    )
    return table


def span(numbers: Iterable[int]) -> tuple[int, int]:
    """The least and the most."""
    found = sorted(numbers)
    return found[0], found[-1]


def between(ends: tuple[int, int]) -> str:
    """``3-5``, or ``3``."""
    least, most = ends
    return str(least) if least == most else f"{least}-{most}"


def amount(size: int) -> str:
    """``617.2 MiB``: bytes in the largest unit that leaves 1 or more."""
    for unit, power in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << power:
            return f"{size / (1 << power):.1f} {unit}"
    return f"{size} B"


def _table(title: str) -> Table:
    return Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="dim",
    )
