"""A few held-out samples with what the model said of each, for the end of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch.distributed as dist

from mimo_core.contract import LANGUAGE, Dataset
from mimo_core.distributed.process_groups import Topology
from mimo_core.planning.plan import Plan
from mimo_core.reporting.console import Answer
from mimo_core.reporting.plots import half_blocks
from mimo_core.train.forward_step import Prediction


class PredictionCollector:
    """Filled during evaluation on the reporting rank; pictures come from the first encoder."""

    def __init__(self, *, plan: Plan, topology: Topology, wanted: int, held_out: Dataset) -> None:
        self._plan = plan
        self._topology = topology
        self._wanted = wanted
        self._held_out = held_out
        self._answers: list[tuple[int, str, str]] = []

    def open(self) -> Callable[[Sequence[Prediction]], None] | None:
        """Begin anew; gives what the forward step hands its predictions to, where that is here."""
        if dist.get_rank() != reporting_rank(self._plan):
            return None
        self._answers = []
        stride = self._plan.microbatch
        seen = 0
        decode = self._plan.graph.tokenizer.decode

        def take(samples: Sequence[Prediction]) -> None:
            nonlocal seen
            for offset, (predicted, labels, learned) in enumerate(samples):
                if len(self._answers) < self._wanted and bool(learned.any()):
                    said = decode(predicted[learned].tolist())
                    truth = decode(labels[learned].tolist())
                    self._answers.append((seen + offset, truth, said))
            seen += stride

        return take

    def gather(self) -> list[Answer]:
        """The answers, with pictures where an encoder can decode them. Called by all ranks."""
        reporter = reporting_rank(self._plan)
        positions = _from_rank(reporter, [answer[0] for answer in self._answers])
        encoders = self._plan.graph.encoders
        pictures: list[tuple[str, ...]] = [()] * len(positions)
        if encoders and positions:
            artist = self._plan.layout.rank_at(encoders[0])
            drawn = None
            if dist.get_rank() == artist:
                drawn = [self._draw(encoders[0], position) for position in positions]
            pictures = _from_rank(artist, drawn)
        return [
            Answer(key=self._held_out[position].key, truth=truth, said=said, picture=picture)
            for (position, truth, said), picture in zip(self._answers, pictures, strict=False)
        ]

    def _draw(self, encoder: str, position: int) -> tuple[str, ...]:
        kind = self._plan.graph.descriptions[encoder].modality
        if kind != "image":
            return ()
        medium = next(self._held_out[position].media(kind), None)
        return () if medium is None else tuple(half_blocks(np.asarray(medium.load(None)), 16))


def reporting_rank(plan: Plan) -> int:
    """The rank that has the loss: the language model's last stage, first of everything else."""
    return plan.layout.rank_at(LANGUAGE, pp=plan.layout.grids[LANGUAGE].pp - 1)


def _from_rank(source: int, value: Any) -> Any:
    box = [value]
    dist.broadcast_object_list(box, src=source)
    return box[0]
