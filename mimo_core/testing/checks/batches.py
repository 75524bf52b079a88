"""What ``provide_batch`` gives. On one rank."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mimo_core.contract import Sample
from mimo_core.model.moe.routers import PADDING
from mimo_core.testing.outcome import Finding
from mimo_core.testing.rank_harness import Built, Rig

_KEYS = ("input_ids", "labels", "loss_mask", "position_ids")
_OF_EXPERTS = (PADDING,)
"""Where there are experts, too: their routers leave padding out."""


def provided(rig: Rig) -> Iterator[Finding]:
    """Keyword arguments as CPU tensors; ``None`` of an encoder where samples have no media."""
    built = rig.whole
    samples = built.samples()
    if built.module.is_language:
        yield from _sequences(built, samples)
    else:
        yield from _media(built, samples)


def _media(built: Built, samples: Sequence[Sample]) -> Iterator[Finding]:
    name = built.module.plugin
    kind = built.described.modality
    without = [sample for sample in samples if not any(sample.media(str(kind)))]
    for what, few in (("text alone", without), ("no samples", [])):
        given = built.provide(few)
        if given is not None:
            yield Finding(
                said=f"provide_batch of {name!r} gives {_shown(given)} for {what}",
                fix=f"give None where no sample has media of kind {kind!r}: the tower is not "
                "called then, and no rank waits for rows",
            )
    batch, again = built.provide(samples), built.provide(samples)
    if batch is None:
        yield Finding(
            said=f"provide_batch of {name!r} gives None for samples with media of kind {kind!r}",
            fix="look for the kind that describe_module().modality tells",
        )
        return
    yield from _transportable(name, batch)
    if not _equal(batch, again):
        yield Finding(
            said=f"provide_batch of {name!r} gives another batch for the same samples",
            fix="augment nothing here: media are augmented by Media.load, from the position in the "
            "run",
        )
    if "pp" in built.described.supported_parallelism:
        for few in (samples, without):
            later = built.provide(few, first_stage=False)
            if (later is None) != (built.provide(few) is None):
                yield Finding(
                    said=f"provide_batch of {name!r} gives {_shown(later)} on a later pipeline "
                    f"stage, but {_shown(built.provide(few))} on the first",
                    fix="decide from the samples' metadata, on all stages alike, whether there is "
                    "anything to do; {} where a later stage needs nothing",
                )


def _sequences(built: Built, samples: Sequence[Sample]) -> Iterator[Finding]:
    name = built.module.plugin
    batch = built.provide(samples)
    shape = (len(samples), built.module.train.sequence_length)
    keys = (*_KEYS, *(_OF_EXPERTS if built.described.num_experts else ()))
    missing = [key for key in keys if key not in (batch or {})]
    if batch is None or missing:
        yield Finding(
            said=f"provide_batch of {name!r} gives {_shown(batch)} without {', '.join(missing)}",
            fix="give what context.build_tokens(samples) holds, as tensors",
        )
        return
    yield from _transportable(name, batch)
    for key in keys:
        if tuple(batch[key].shape) != shape:
            yield Finding(
                said=f"provide_batch of {name!r} gives {key} of shape {list(batch[key].shape)}; "
                f"{len(samples)} samples of {shape[1]} positions are {list(shape)}",
                fix="keep every sample and the padding as context.build_tokens(samples) has them",
            )


def _transportable(name: str, batch: Mapping[str, Any]) -> Iterator[Finding]:
    for key, value in batch.items():
        if isinstance(value, np.ndarray):
            yield Finding(
                said=f"provide_batch of {name!r} gives {key!r} as a numpy array",
                fix="torch.from_numpy(…): what is no tensor is not moved to the device",
            )
        elif isinstance(value, torch.Tensor) and value.device.type != "cpu":
            yield Finding(
                said=f"provide_batch of {name!r} gives {key!r} on {value.device}",
                fix="leave it on the CPU: it may run in a worker process; the core moves it",
            )
        elif isinstance(value, torch.Tensor) and value.requires_grad:
            yield Finding(
                said=f"provide_batch of {name!r} gives {key!r}, which requires a gradient",
                fix="compute with parameters in the tower's forward",
            )
    try:
        pickle.dumps(dict(batch))
    except Exception as error:
        yield Finding(
            said=f"the batch of {name!r} cannot go from a worker process to its rank: {error}",
            fix="give tensors and plain values",
        )


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    return bool(one == other)


def _shown(batch: Mapping[str, Any] | None) -> str:
    return "None" if batch is None else f"a batch of {', '.join(batch) or 'nothing'}"
