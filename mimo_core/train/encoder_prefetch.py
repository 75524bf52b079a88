"""What an encoder's rank does while the language model ends a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mimo_core.contract import LANGUAGE
from mimo_core.data.iterator import MicrobatchIterator
from mimo_core.data.microbatch_dataset import Batch
from mimo_core.model.encoder_module import EncoderSubmodule
from mimo_core.model.mimo_model import RankMimoModel
from mimo_core.profile.recorder import span


class FeaturePrefetcher:
    """A frozen tower's features of the next step's first microbatch.

    When the last rows of a step have left, an encoder's rank waits: for gradients of its projector,
    and for all ranks' norms. In the next step the language model would wait for the first rows. A
    tower that does not learn computes them in between; the projector has its turn when it has
    learned.
    """

    def __init__(self, on_device: Callable[[Any], Any]) -> None:
        """``on_device``: brings a module's batch to this rank's device."""
        self._on_device = on_device
        self._kept: tuple[Batch, torch.Tensor] | None = None

    def compute(self, feed: MicrobatchIterator, model: RankMimoModel) -> None:
        """Called on the rank of an encoder whose tower is fixed (:func:`supports_prefetch`)."""
        (name,) = model.nodes
        batch = feed.peek()
        if batch is None or batch.inputs.get(name) is None:
            return
        container: Any = model.bare(name)
        with span("forward", "next step"):
            inputs = self._on_device(batch.inputs[name])
            self._kept = batch, container.features(inputs)

    def take(self, batch: Batch) -> torch.Tensor | None:
        """Features of a microbatch, if they have been computed."""
        kept, self._kept = self._kept, None
        return kept[1] if kept is not None and kept[0] is batch else None


def supports_prefetch(model: RankMimoModel) -> bool:
    """Whether this rank has one module, an encoder whose tower is fixed."""
    names = list(model.nodes)
    if len(names) != 1 or names[0] == LANGUAGE:
        return False
    container = model.bare(names[0])
    return isinstance(container, EncoderSubmodule) and container.tower_is_fixed
