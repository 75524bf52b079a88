"""Whether a checkpoint fits the model, told in full before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedBase, ShardedObject, ShardedTensor
from megatron.core.dist_checkpointing.state_dict_utils import load_preprocess

from mimo_core.checkpoint.keys import OPTIMIZER, module_of
from mimo_core.checkpoint.manifest import Manifest
from mimo_core.errors import CheckpointError
from mimo_core.platforms.base import RankPlatform
from mimo_core.train.checkpointing.frozen_weights import MODEL, split

_SHOWN = 8
"""Keys of a kind that the message lists; the log has them all."""

_EXTRA = "._extra_state/"
"""In the keys of TransformerEngine's states beside the weights: the history of FP8 scales, which no
precision of a recipe uses. Layers of CPUs have them in other places, or have none."""

Line = tuple[str, str, str, str]
"""A misfit: module, what is wrong, key, shapes."""

Wanted = Mapping[str, tuple[int, ...] | None]
"""Global shapes by key; ``None`` of what is no tensor."""


class CheckpointValidator:
    """Compares what the ranks are about to load with a checkpoint's manifest."""

    def __init__(
        self,
        *,
        manifest: Manifest,
        weights_only: bool,
        differing: Sequence[str],
        platform: RankPlatform,
    ) -> None:
        """
        Args:
            manifest: Of the checkpoint.
            weights_only: Nothing else of it is wanted.
            differing: Values of the recipe's modules that are not as they were, a line each.
            platform: This rank's machine.
        """
        self._manifest = manifest
        self._weights_only = weights_only
        self._differing = differing
        self._platform = platform

    def __call__(self, stock: Callable[..., Any]) -> Callable[..., Any]:
        """Stands around ``dist_checkpointing.load``, which leaves out what it is not asked for."""

        def load(state: dict[str, Any], checkpoint: str, *args: Any, **kwargs: Any) -> Any:
            """Called by all ranks.

            Raises:
                CheckpointError: the checkpoint does not fit; the same on all ranks.
            """
            state, elsewhere = split(state, self._manifest.left_out.__contains__, learning=True)
            state[MODEL] = {
                name: entry for name, entry in state[MODEL].items() if not self._needless(entry)
            }
            wrong = self.differences(wanted_of(state))
            if wrong:
                print(*told(wrong), sep="\n", flush=True)
                raise CheckpointError(
                    "\n".join(
                        [f"{checkpoint} does not fit the model:", *told(wrong, _SHOWN)]
                        + (["values of the recipe that differ:"] if self._differing else [])
                        + [f"  {line}" for line in self._differing]
                        + ["take the model that it was saved with, or begin with other weights"]
                    ),
                    code="checkpoint.other-model",
                    checkpoint=str(checkpoint),
                    keys=tuple(key for _, _, key, _ in wrong),
                    differences=tuple(self._differing),
                )
            loaded = stock(state, checkpoint, *args, **kwargs)
            # They have their values: see mimo_core.model.builder.
            loaded[MODEL] |= {name: entry.data for name, entry in elsewhere.items()}
            return loaded

        return load

    def differences(self, wanted: Wanted) -> list[Line]:
        """Each key that does not fit on any rank. Called by all ranks."""
        held: dict[str, tuple[int, ...] | None] = dict.fromkeys(self._manifest.objects)
        held |= {key: tuple(facts["shape"]) for key, facts in self._manifest.tensors.items()}
        if self._weights_only:
            held = {key: shape for key, shape in held.items() if not key.startswith(OPTIMIZER)}
        keys = sorted(held)
        asked = torch.tensor([key in wanted for key in keys], dtype=torch.uint8)
        asked = asked.to(self._platform.device)
        dist.all_reduce(asked, op=dist.ReduceOp.MAX)
        found: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(found, list(_misfits(wanted, held)))
        lines = {line for of_rank in found for line in of_rank}
        unasked = [key for key, by_any in zip(keys, asked.tolist(), strict=True) if not by_any]
        lines |= {
            (_owner(key), "the model has not", key, "") for key in unasked if _EXTRA not in key
        }
        return sorted(_weights_first(lines))

    def _needless(self, entry: Any) -> bool:
        return (
            isinstance(entry, ShardedObject)
            and _EXTRA in entry.unique_key
            and entry.unique_key not in self._manifest.objects
        )


def wanted_of(state: dict[str, Any]) -> Wanted:
    """What a rank asks of a checkpoint, from its sharded state."""
    asked, *_ = load_preprocess(state)
    return {
        value.key if isinstance(value, ShardedTensor) else value.unique_key: (
            tuple(value.global_shape) if isinstance(value, ShardedTensor) else None
        )
        for value in nested_values(asked)
        if isinstance(value, ShardedBase)
    }


def _misfits(wanted: Wanted, held: Wanted) -> Iterator[Line]:
    for key, shape in wanted.items():
        if key not in held:
            yield _owner(key), "the checkpoint lacks", key, ""
        elif shape != held[key]:
            shapes = f" (saved {_shown(held[key])}, now {_shown(shape)})"
            yield _owner(key), "other shape:", key, shapes


def _shown(shape: Sequence[int] | None) -> str:
    return "no tensor" if shape is None else " x ".join(map(str, shape)) or "a scalar"


def _owner(key: str) -> str:
    return module_of(key) or "the run"


def _weights_first(lines: set[Line]) -> Iterator[Line]:
    """Without the optimizer's state of weights that are told already."""
    weights = {(what, key) for _, what, key, _ in lines if not key.startswith(OPTIMIZER)}
    for line in lines:
        _, what, key, _ = line
        weight = key.partition(".optimizer.state.")[2].partition(".")[2]
        if not (key.startswith(OPTIMIZER) and (what, weight) in weights):
            yield line


def told(lines: Sequence[Line], most: int | None = None) -> Iterator[str]:
    """A line for each kind of misfit of each module, with at most so many keys."""
    for (owner, what), group in groupby(lines, key=itemgetter(0, 1)):
        keys = [key + shapes for _, _, key, shapes in group]
        more = (
            ""
            if most is None or len(keys) <= most
            else f" and {len(keys) - most} more (all are in the log)"
        )
        yield f"  {owner}: {what} {', '.join(keys[:most])}{more}"
