"""What a run stands on beside its recipe: kept in every checkpoint, compared when it goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mimo_core.plan import Plan

if TYPE_CHECKING:
    from mimo_core.train.samples import Samples


def facts_to_keep(plan: Plan, samples: Samples) -> dict[str, Any]:
    """The plugins by version, the tokenizer, and the samples of both splits."""
    return {
        "plugins": plan.host.versions(),
        "plugins digest": plan.host.digest(),
        "tokenizer": plan.graph.tokenizer.digest,
        "samples": samples.facts,
    }


def changes(saved: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """A line for each thing that is no longer as it was, and that is the user's to judge.

    Raises:
        ValueError: the tokenizer is another: the weights would mean other tokens.
    """
    if not saved:
        return
    if saved["tokenizer"] != now["tokenizer"]:
        raise ValueError(
            "the checkpoint was saved with another tokenizer: its token ids mean other texts; go "
            "on with the one it was saved with, or begin anew (checkpoint.start_from takes weights "
            "alone) in another run folder"
        )
    if saved["plugins digest"] != now["plugins digest"]:
        before, after = saved["plugins"], now["plugins"]
        changed = [
            f"{name} {before.get(name, 'absent')} -> {after.get(name, 'absent')}"
            for name in sorted({*before, *after})
            if before.get(name) != after.get(name)
        ]
        told = ", ".join(changed) or "distributions"
        yield f"plugins changed since the checkpoint was saved: {told}"
    for split, (size, digest) in now["samples"].items():
        was, before = saved["samples"][split]
        if (was, before) != (size, digest):
            count = f"{was} samples, now {size}" if was != size else f"{size} samples, now others"
            yield (
                f"the {split} split changed since the checkpoint was saved ({count}): the place in "
                "the data means other samples"
            )
