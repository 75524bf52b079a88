"""The forward step of the stock schedule, and the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from mimo_core.communicator.pipeline import PipelineCommunicator
from mimo_core.contract import LANGUAGE
from mimo_core.data.slices import Batch
from mimo_core.model.mimo import Model
from mimo_core.platforms.base import RankPlatform

LOSS = "lm loss"
"""The stock loop's name for the loss, on its lines and in TensorBoard."""


class ForwardStep:
    """One microbatch through this rank's module. Called by the schedule on every rank."""

    def __init__(
        self, communicator: PipelineCommunicator, platform: RankPlatform, metric: str
    ) -> None:
        """
        Args:
            communicator: Told how many rows each sample of the microbatch has.
            platform: This rank's machine.
            metric: Name of the share of held-out samples that are answered exactly.
        """
        self._communicator = communicator
        self._platform = platform
        self._metric = metric
        self.answers: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None] | None = None
        """Evaluation: takes predicted ids, labels and loss mask, each ``[B, S]``."""

    def __call__(
        self, data_iterator: Iterator[Batch], model: Model
    ) -> tuple[Any, Callable[..., Any] | None]:
        batch = next(data_iterator)
        inputs = None if batch.inputs is None else self._on_device(batch.inputs)
        if model.module_name != LANGUAGE:
            self._communicator.produced(batch.rows)
            return model.encode(inputs), None
        output = model.logits(inputs or {"input_ids": None})
        if not self._communicator.is_pp_last_stage:
            return output, None
        assert inputs is not None
        losses = model.losses(output, inputs["labels"])
        if model.training:
            return losses, partial(token_loss, inputs["loss_mask"])
        exact = self._exact(output, inputs, model)
        return losses, partial(token_loss, inputs["loss_mask"], more={self._metric: exact})

    def _on_device(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {
            name: value.to(self._platform.device, non_blocking=True)
            if isinstance(value, torch.Tensor)
            else value
            for name, value in inputs.items()
        }

    def _exact(
        self, logits: torch.Tensor, inputs: dict[str, torch.Tensor], model: Model
    ) -> torch.Tensor:
        """``[samples answered exactly, samples]``: argmax of every learned token is the label."""
        predicted = parallel_argmax(logits, model.pg_collection.tp)
        labels, mask = inputs["labels"], inputs["loss_mask"] > 0
        if self.answers is not None:
            self.answers(predicted, labels, mask)
        counted = mask.any(dim=1)
        right = ((predicted == labels) | ~mask).all(dim=1) & counted
        return torch.stack([right.sum(), counted.sum()]).float()


def token_loss(
    loss_mask: torch.Tensor,
    losses: torch.Tensor,
    more: dict[str, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Sum of the learned tokens' losses, their number, and what is reported.

    Args:
        loss_mask: 1 where a token is learned, ``[B, S]``.
        losses: ``[B, S]``.
        more: Further ``[sum, count]`` pairs to report.
    """
    total = torch.sum(losses.float() * loss_mask)
    count = loss_mask.sum()
    reported = {LOSS: torch.stack([total.detach(), count]), **(more or {})}
    return total, count.to(torch.int), reported


def parallel_argmax(logits: torch.Tensor, tp_group: dist.ProcessGroup) -> torch.Tensor:
    """Argmax ``[B, S]`` over a vocabulary that is split over the tensor-parallel group.

    Args:
        logits: This rank's part, ``[B, S, V / tp]``.
        tp_group: Ranks hold consecutive parts.
    """
    best, index = logits.float().max(dim=-1)
    index = index + tp_group.rank() * logits.shape[-1]
    if tp_group.size() == 1:
        return index
    bests = [torch.empty_like(best) for _ in range(tp_group.size())]
    indices = [torch.empty_like(index) for _ in range(tp_group.size())]
    dist.all_gather(bests, best.contiguous(), group=tp_group)
    dist.all_gather(indices, index.contiguous(), group=tp_group)
    winner = torch.stack(bests).argmax(dim=0, keepdim=True)
    return torch.stack(indices).gather(0, winner)[0]
