"""Tables of a plan: what its ranks hold, and what fills its sequences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from mimo_core.planning.memory_estimate import RankMemory, rank_memory
from mimo_core.planning.plan import Plan
from mimo_core.reporting.header import count
from mimo_core.reporting.throughput import Figures


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
    learned = between(span(counts.kept for counts in samples))
    table.add_row("text", between(span(c.text for c in samples)), f"{learned} labels learned")
    table.add_row(
        "together",
        between(span(counts.total for counts in samples)),
        f"of sequence_length {length}; the longest, {longest.sample}, fills "
        f"{longest.total / length:.0%}",
    )
    return table


def work_table(plan: Plan, modules: Mapping[str, Figures], model: Figures) -> Table:
    """What each module does in a step, and how fast its ranks are at it."""
    table = _table("work of a step: model FLOPs, forward and backward")
    for heading in ("module", "ranks", "work", "on a rank", "MFU", "reads"):
        left = heading in ("module", "ranks")
        justify: Literal["left", "right"] = "left" if left else "right"
        table.add_column(heading, justify=justify, no_wrap=heading != "module", overflow="fold")
    for name, one in modules.items():
        ranks = plan.layout.ranks(name)
        kind = plan.graph.descriptions[name].modality
        passed = {"tokens": one.tokens_per_second, kind: one.media_per_second}
        table.add_row(
            name,
            between((ranks[0], ranks[-1])),
            *_speed(one),
            ", ".join(f"{rate:,.0f} {what}/s" for what, rate in passed.items() if rate is not None),
        )
    if len(modules) > 1:
        table.add_row("together", str(model.ranks), *_speed(model), "", style="bold")
    return table


def held_table(plan: Plan, ranks: Sequence[Mapping[str, Any]]) -> Table:
    """Bytes that ranks hold, the most of ranks that are planned alike, beside what was planned."""
    on_device = any(rank["peak_memory_bytes"] for rank in ranks)
    peak = "peak_memory_bytes" if on_device else "peak_resident_bytes"
    table = _table("memory of a rank")
    table.collapse_padding = True
    headings = ("ranks", "module", "", "weights", "gradients", "optimizer", "together")
    for at, heading in enumerate((*headings, "peak" if on_device else "process")):
        table.add_column(
            heading, justify="right" if at > 2 else "left", no_wrap=at != 1, overflow="fold"
        )
    for planned in _by_ranks(rank_memory(plan.graph, plan.layout)):
        first, last = planned[0].ranks[0], planned[0].ranks[-1]
        alike = ranks[first : last + 1]
        most = max((rank["held_bytes"] for rank in alike), key=lambda held: sum(held.values()))
        said = [sum(getattr(one, what) for one in planned) for what in most]
        names = ", ".join(one.module for one in planned)
        used = amount(max(rank[peak] for rank in alike))
        for ends, name, what, held, more in (
            (between((first, last)), names, "held", most.values(), used),
            ("", "", "planned", said, ""),
        ):
            table.add_row(ends, name, what, *map(amount, (*held, sum(held))), more)
    return table


def _by_ranks(planned: Iterable[RankMemory]) -> list[list[RankMemory]]:
    """Entries of the same ranks together: of colocated modules."""
    found: dict[range, list[RankMemory]] = {}
    for one in planned:
        found.setdefault(one.ranks, []).append(one)
    return list(found.values())


def _speed(one: Figures) -> tuple[str, str, str]:
    return (
        _flop(one.flops_per_step, "FLOP"),
        _flop(one.flops_per_second_per_rank, "FLOP/s"),
        "-" if one.mfu is None else f"{one.mfu:.1%}",
    )


def _flop(number: float | None, unit: str) -> str:
    """``632.1 TFLOP``."""
    if number is None:
        return "-"
    prefixes = (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))
    for prefix, size in prefixes:
        if number >= size:
            return f"{number / size:.1f} {prefix}{unit}"
    return f"{number:.0f} {unit}"


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
