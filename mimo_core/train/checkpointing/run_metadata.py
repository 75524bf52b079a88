"""What a run stands on: in the manifest of every checkpoint, compared when one is gone on from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mimo_core.checkpoint.manifest import Manifest
from mimo_core.checkpoint.resume_changes import surroundings
from mimo_core.errors import CheckpointError
from mimo_core.planning.plan import Plan
from mimo_core.planning.rank_layout import Layout
from mimo_core.recipe.converter import plain

if TYPE_CHECKING:
    from mimo_core.train.datasets import TrainingData

SIZES = ("tp", "cp", "pp", "dp", "ep", "etp")


def facts_to_keep(plan: Plan, samples: TrainingData, device: str) -> dict[str, Any]:
    """Of the run, not of one checkpoint; plain values, named as in the manifest.

    Args:
        plan: What is run.
        samples: Of both splits.
        device: What ranks compute on, ``cpu`` or ``cuda``.
    """
    return {
        "recipe": plain(plan.recipe),
        "layout": {**_layout(plan.layout), "device": device},
        "plugins": plan.host.versions(),
        "plugins_digest": plan.host.digest(),
        **surroundings(),
        "tokenizer": plan.graph.tokenizer.digest,
        "samples": {split: list(facts) for split, facts in samples.facts.items()},
    }


def _layout(layout: Layout) -> dict[str, Any]:
    modules = {
        name: {
            "grid": {size: getattr(grid, size) for size in SIZES},
            "rank_offset": layout.rank_offsets[name],
        }
        for name, grid in layout.grids.items()
    }
    return {"kind": layout.kind, "world_size": layout.world_size, "modules": modules}


def changes(saved: Manifest, now: Mapping[str, Any]) -> Iterator[str]:
    """A line for each thing that is no longer as it was, and that is the user's to judge.

    Args:
        saved: Of the checkpoint.
        now: What :func:`facts_to_keep` gives.

    Raises:
        CheckpointError: the tokenizer is another: the weights would mean other tokens.
    """
    if saved.tokenizer != now["tokenizer"]:
        raise CheckpointError(
            "the checkpoint was saved with another tokenizer: its token ids mean other texts; go "
            "on with the one it was saved with, or begin anew (checkpoint.init_from takes weights "
            "alone) in another run folder",
            code="checkpoint.other-tokenizer",
        )
    yield from plugin_changes(saved, now)
    for split, (size, digest) in now["samples"].items():
        was, before = saved.samples[split]
        if (was, before) != (size, digest):
            count = f"{was} samples, now {size}" if was != size else f"{size} samples, now others"
            yield (
                f"the {split} split changed since the checkpoint was saved ({count}): the place in "
                "the data means other samples"
            )
    before, here = saved.layout["device"], now["layout"]["device"]
    if before != here:
        yield (
            f"the run was on {before} and goes on on {here}: its random numbers (dropout) are "
            "drawn anew"
        )
        return
    for name, module in now["layout"]["modules"].items():
        was, grid = saved.layout["modules"][name]["grid"], module["grid"]
        changed = [
            f"{size} {was[size]} -> {grid[size]}" for size in SIZES if was[size] != grid[size]
        ]
        if not changed and saved.layout["kind"] != now["layout"]["kind"]:
            changed = [f"{saved.layout['kind']} -> {now['layout']['kind']}"]
        if changed:
            yield (
                f"{name} goes on in another grid ({', '.join(changed)}): its random numbers "
                "(dropout) are drawn anew"
            )


def plugin_changes(saved: Manifest, now: Mapping[str, Any]) -> Iterator[str]:
    """That plugins are others than those that saved, in a line."""
    if saved.plugins_digest != now["plugins_digest"]:
        before, after = saved.plugins, now["plugins"]
        changed = [
            f"{name} {before.get(name, 'absent')} -> {after.get(name, 'absent')}"
            for name in sorted({*before, *after})
            if before.get(name) != after.get(name)
        ]
        told = ", ".join(changed) or "distributions"
        yield f"plugins changed since the checkpoint was saved: {told}"


def same_place(saved: Manifest, now: Mapping[str, Any], module: str, rank: int) -> str | None:
    """The file of the random state that a rank of a module goes on with; ``None`` where the
    module's grid is another now, so that nobody had this rank's place in it, or its device, whose
    generators are others.

    Args:
        saved: Of the checkpoint.
        now: What :func:`facts_to_keep` gives.
        module: On this rank.
        rank: World rank, now.
    """
    before, after = saved.layout, now["layout"]
    was, here = before["modules"][module], after["modules"][module]
    if (
        any(before[what] != after[what] for what in ("kind", "device"))
        or was["grid"] != here["grid"]
    ):
        return None
    place = rank - int(here["rank_offset"])
    return saved.random_states[int(was["rank_offset"]) + place]
