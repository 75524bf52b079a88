"""Checkpoints. On one rank."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from megatron.core import dist_checkpointing

from mimo_core.checkpoint.keys import module_prefix
from mimo_core.testing.checks.gradients import batch_of, shake
from mimo_core.testing.outcome import Finding
from mimo_core.testing.rank_harness import Built, Rig


def complete(rig: Rig) -> Iterator[Finding]:
    """The sharded state dict holds every parameter and every buffer that is saved."""
    built = rig.whole
    saved = {key.removeprefix(module_prefix(built.name)) for key in built.state()}
    due = {key for key in built.bare.state_dict() if not key.endswith("_extra_state")}
    lost = sorted(due - saved)
    if lost:
        yield Finding(
            said=f"the checkpoint would not hold {', '.join(lost[:3])} of {built.module.plugin!r}"
            + (f" and {len(lost) - 3} more" if len(lost) > 3 else ""),
            fix="give every parameter and buffer in sharded_state_dict() (derive from megatron's "
            "MegatronModule, which asks the children), or register the buffer with "
            "persistent=False where it follows from the options",
        )
    foreign = sorted(key for key in saved - due if not key.endswith("_extra_state"))
    if foreign:
        yield Finding(
            said=f"the checkpoint of {built.module.plugin!r} would hold {', '.join(foreign[:3])}, "
            "which load_state_dict does not know",
            fix="sharded_state_dict() must use the names of state_dict()",
        )
    groups = [item.key for item in built.sharded()]
    if not groups:
        yield Finding(
            said=f"sharded_state_dict() of {built.module.plugin!r} holds no tensors",
            fix="give megatron's ShardedTensors (make_sharded_tensors_for_checkpoint)",
        )


@torch.no_grad()
def loaded(rig: Rig) -> Iterator[Finding]:
    """What was saved, loaded into a model of another seed, is the same model."""
    first, second = rig.build(seed=5), rig.build(seed=6)
    shake(first)
    with tempfile.TemporaryDirectory() as folder:
        dist_checkpointing.save(first.model.sharded_state_dict(), folder)
        second.model.load_state_dict(
            dist_checkpointing.load(second.model.sharded_state_dict(), str(Path(folder)))
        )
    yield from same_model(first, second, "saving and loading a checkpoint")


def same_model(first: Built, second: Built, after: str) -> Iterator[Finding]:
    """Two models have equal tensors and put out the same."""
    name = first.module.plugin
    own, other = first.bare.state_dict(), second.bare.state_dict()
    changed = [
        key
        for key, value in own.items()
        if isinstance(value, torch.Tensor) and not torch.equal(value, other[key])
    ]
    if changed:
        yield Finding(
            said=f"{', '.join(changed[:3])} of {name!r} differ after {after}",
            fix="each needs a key of its own, which tells the same tensor on saving and on loading",
        )
        return
    outputs = []
    for built in (first, second):
        built.model.eval()
        outputs.append(built.output(batch_of(built)))
    if not torch.equal(*outputs):
        yield Finding(
            said=f"{name!r} has the same weights after {after}, but puts out something else",
            fix="what was drawn at random or changed in training must be a parameter or a buffer "
            "that is saved (persistent=True)",
        )
