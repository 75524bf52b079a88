"""Rows of an encoder. On one rank."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mimo_core.contract import Sample
from mimo_core.planning.sequence_budget import media_positions
from mimo_core.testing.outcome import Finding
from mimo_core.testing.rank_harness import Built, Rig


@torch.no_grad()
def rows(rig: Rig) -> Iterator[Finding]:
    """As many rows as ``count_positions`` gives, of the language model's hidden size."""
    built = rig.whole
    built.model.eval()
    kind = built.described.modality
    assert kind is not None
    media = built.bench.inner.media(kind)
    cases = [Sample(key=f"conformance/{at}", content=(one,)) for at, one in enumerate(media)]
    cases.append(Sample(key="conformance/all", content=tuple(media)))
    for sample in cases:
        wrong = list(_case(built, sample))
        yield from wrong
        if wrong:
            return
    nothing = built.encode(None)
    if list(nothing.shape) != [0, built.bench.inner.language_width]:
        yield Finding(
            said=f"without media {built.module.plugin!r} gives rows {list(nothing.shape)}",
            fix="leave what the core gives for None as it is",
        )


def _case(built: Built, sample: Sample) -> Iterator[Finding]:
    name = built.module.plugin
    shapes = [list(one.shape) for one in sample.media(str(built.described.modality))]
    batch = built.provide([sample])
    assert batch is not None
    given = built.on_device(batch)
    tower = built.by_part()["encoder"](**given)
    if not isinstance(tower, torch.Tensor) or tower.shape[-1] != built.described.hidden_size:
        put = list(tower.shape) if isinstance(tower, torch.Tensor) else type(tower).__name__
        yield Finding(
            said=f"the tower of {name!r} puts out {put}, but describe_module().hidden_size is "
            f"{built.described.hidden_size}",
            fix="return rows [N, width] (or [B, S, width]), and tell that width",
        )
        return
    due = [sum(media_positions(built.graph, built.name, sample)), built.bench.inner.language_width]
    got = built.encode(batch)
    if list(got.shape) != due:
        yield Finding(
            said=f"{name!r} puts out rows {list(got.shape)} for media of shapes {shapes}; by "
            f"describe_module().count_positions and the language model's width it should be {due}",
            fix="correct describe_module().count_positions or the tower (rows), the projector "
            "(width); both sides of the bridge count by describe_module()",
        )
    elif not got.isfinite().all():
        yield Finding(
            said=f"{name!r} puts out rows that are not finite for media of shapes {shapes}",
            fix="look for a division by 0, or weights that were never initialised",
        )
