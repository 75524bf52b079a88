"""A run's speed by module, from its iterations: what ``summary.json`` and the last tables say."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from mimo_core.contract import LANGUAGE
from mimo_core.planning.plan import Plan


@attrs.frozen(kw_only=True)
class Figures:
    """Of one module, or of all together."""

    ranks: int
    flops_per_step: float | None
    """Model FLOPs of an iteration; ``None`` where a plugin tells none."""
    flops_per_second_per_rank: float | None
    mfu: float | None
    """The share of what its ranks could do; ``None`` where FLOPs or the ranks' peak are unknown."""
    media_per_second: float | None = None
    """Encoders: media read."""
    tokens_per_second: float | None = None
    """The language model: sequence positions."""


def figures(
    plan: Plan,
    iterations: Sequence[Mapping[str, Any]],
    peaks: Sequence[Mapping[str, float | None]],
) -> tuple[dict[str, Figures], Figures]:
    """Of every module, and of all together: their FLOPs add up.

    Args:
        plan: What was run.
        iterations: Rows of the summary, one or more; FLOPs, media and positions of the mean one
            are done in the median time.
        peaks: Of every rank, by module: FLOP/s at most.
    """
    seconds = statistics.median(row["step_seconds"] for row in iterations)
    tokens = statistics.mean(row["positions"] for row in iterations)
    flops = {name: _mean(iterations, "flops", name) for name in plan.graph.modules}
    found = {}
    for name in plan.graph.modules:
        ranks = plan.layout.ranks(name)
        own = [peaks[rank].get(name) for rank in ranks]
        media = None if name == LANGUAGE else _mean(iterations, "media", name)
        found[name] = attrs.evolve(
            _speed(flops[name], seconds, own),
            media_per_second=None if media is None else media / seconds,
            tokens_per_second=tokens / seconds if name == LANGUAGE else None,
        )
    # A rank of several modules is one rank; in several precisions nothing is known of its peak.
    every = [_one(peak) for peak in peaks]
    known = [value for value in flops.values() if value is not None]
    together = sum(known) if len(known) == len(flops) else None
    return found, _speed(together, seconds, every)


def _one(peak: Mapping[str, float | None]) -> float | None:
    """Of a rank, where it is the same for all its modules."""
    values = set(peak.values())
    return values.pop() if len(values) == 1 else None


def _speed(flops: float | None, seconds: float, peaks: Sequence[float | None]) -> Figures:
    known = [peak for peak in peaks if peak is not None]
    mfu = None
    if flops is not None and len(known) == len(peaks):
        mfu = flops / (seconds * sum(known))
    return Figures(
        ranks=len(peaks),
        flops_per_step=flops,
        flops_per_second_per_rank=None if flops is None else flops / (seconds * len(peaks)),
        mfu=mfu,
    )


def _mean(iterations: Sequence[Mapping[str, Any]], what: str, name: str) -> float | None:
    values = [row[what][name] for row in iterations if name in row.get(what, {})]
    return sum(values) / len(values) if values else None
