"""The forward step of the stock schedule, and the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from mimo_core.contract import LANGUAGE
from mimo_core.data.microbatch_dataset import Batch
from mimo_core.data.row_counts import RowCounts, check_rows
from mimo_core.distributed.context_parallel import cp_gather_order, gather_sequence, local_positions
from mimo_core.distributed.pipeline_communicator import PipelineCommunicator
from mimo_core.errors import PluginError
from mimo_core.model.embedding_merge import ScatterIndices, placeholder_indices
from mimo_core.model.mimo_model import RankMimoModel
from mimo_core.model.moe.routers import PADDING
from mimo_core.model.packing import packing_kwargs, sample_of_position
from mimo_core.planning.plugin_answers import titled
from mimo_core.platforms.base import RankPlatform
from mimo_core.train.encoder_prefetch import FeaturePrefetcher
from mimo_core.utils.activity import CURRENT

LOSS = "lm loss"
"""The stock loop's name for the loss, on its lines and in TensorBoard."""

POSITIONS = "positions"
"""Positions of a rank's microbatch, where samples are packed; reported as the loss is."""


Prediction = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Of one sample: predicted ids, labels, and where the label is learned, each ``[s]``."""


class ForwardStep:
    """One microbatch through this rank's modules. Called by the schedule on every rank."""

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
        self.early = FeaturePrefetcher(self._on_device)
        self.answers: Callable[[Sequence[Prediction]], None] | None = None
        """Evaluation: takes the samples of a microbatch."""

    def __call__(
        self, data_iterator: Iterator[Batch], model: RankMimoModel
    ) -> tuple[Any, Callable[..., Any] | None]:
        with CURRENT.during("data"):
            batch = next(data_iterator)
        early = self.early.take(batch) if model.training else None
        rows = {
            name: model.encode(name, None, early)
            if early is not None
            else model.encode(name, self._on_device(batch.inputs.get(name)))
            for name in model.nodes
            if name != LANGUAGE
        }
        if not model.has_language:
            self._communicator.produced(batch.rows)
            return rows, None
        given = dict(batch.inputs.get(LANGUAGE) or {})
        lengths = given.pop("lengths", None)
        inputs = self._on_device(given) or {}
        padding = inputs.pop(PADDING, None)
        packing = None if lengths is None else packing_kwargs(lengths, self._platform.device)
        own = self._own_positions(inputs, lengths, model)
        here = _checked(rows, batch.rows, model) if rows else None
        places = self._places(given, batch.rows, model)
        output = model.logits(inputs, packing, rows=here, places=places, own=own, padding=padding)
        if not self._communicator.is_pp_last_stage:
            return output, None
        positions = len(inputs["labels"]), inputs["labels"].shape[1] if own is None else len(own)
        check_logits(output, positions, titled(model.nodes[LANGUAGE]))
        more = {}
        if not model.training:
            # Before the loss, which is computed in place of the logits.
            more[self._metric] = self._exact(output, inputs, lengths, model)
        elif lengths is not None:
            counted = [float(inputs["labels"].numel()), 1.0]
            more[POSITIONS] = torch.tensor(counted, device=self._platform.device)
        labels, mask = inputs["labels"], inputs["loss_mask"]
        if own is not None:
            labels, mask = labels.index_select(1, own), mask.index_select(1, own)
        return model.losses(output, labels), partial(token_loss, mask, more=more)

    def _places(
        self, given: dict[str, Any], rows: RowCounts, model: RankMimoModel
    ) -> ScatterIndices | None:
        """Where the encoders' rows go, on the device; nowhere after the first stage."""
        if not rows or "input_ids" not in given or not model.role.is_first_stage(LANGUAGE):
            return None
        fed = {encoder: rows[encoder] for encoder in model.special_token_ids}
        return self._on_device(
            placeholder_indices(given["input_ids"], model.special_token_ids, fed)
        )

    def _own_positions(
        self, inputs: dict[str, Any], lengths: torch.Tensor | None, model: RankMimoModel
    ) -> torch.Tensor | None:
        """This rank's positions of the rows, where context parallelism shares them and something
        of them is cut here."""
        cp = model.pg_collection.cp
        if cp.size() == 1 or not inputs:
            return None
        own = local_positions(_samples(inputs["labels"], lengths), cp.size(), cp.rank())
        return own.to(self._platform.device, non_blocking=True)

    def _on_device(self, inputs: Mapping[str, Any] | None) -> dict[str, Any] | None:
        if inputs is None:
            return None
        return {
            name: value.to(self._platform.device, non_blocking=True)
            if isinstance(value, torch.Tensor)
            else value
            for name, value in inputs.items()
        }

    def _exact(
        self,
        logits: torch.Tensor,
        inputs: dict[str, torch.Tensor],
        lengths: torch.Tensor | None,
        model: RankMimoModel,
    ) -> torch.Tensor:
        """``[samples answered exactly, samples]``: argmax of every learned token is the label."""
        predicted = parallel_argmax(logits, model.pg_collection.tp)
        labels, mask = inputs["labels"], inputs["loss_mask"] > 0
        cp = model.pg_collection.cp
        if cp.size() > 1:
            # A sample is judged whole; all ranks of the group say the same of it.
            order = cp_gather_order(_samples(labels, lengths), cp.size())
            predicted = gather_sequence(predicted, order, cp)
        if lengths is None:
            lengths = torch.full((len(labels),), labels.shape[1])
        predicted, labels, mask = predicted.flatten(), labels.flatten(), mask.flatten()
        if self.answers is not None:
            parts = (tensor.split(lengths.tolist()) for tensor in (predicted, labels, mask))
            self.answers(list(zip(*parts, strict=True)))
        sample = sample_of_position(lengths).to(labels.device)
        none = torch.zeros(len(lengths), device=labels.device)
        learned = none.index_add(0, sample, mask.float())
        wrong = none.index_add(0, sample, ((predicted != labels) & mask).float())
        counted = learned > 0
        return torch.stack([(counted & (wrong == 0)).sum(), counted.sum()]).float()


def _checked(
    rows: dict[str, torch.Tensor], counts: RowCounts, model: RankMimoModel
) -> dict[str, torch.Tensor]:
    """Rows of encoders on the language model's own rank, in its precision."""
    width, dtype = model.config.hidden_size, model.config.params_dtype
    for encoder, tensor in rows.items():
        check_rows(tensor, counts[encoder], width, titled(model.nodes[encoder]))
    return {encoder: tensor.to(dtype) for encoder, tensor in rows.items()}


def check_logits(logits: torch.Tensor, positions: tuple[int, int], title: str) -> None:
    """Compare the shape of logits with the positions of a microbatch.

    Args:
        logits: The language model's, ``[B, S, V / tp]``.
        positions: ``B`` and ``S`` of this rank.
        title: The module and its plugin, as messages name them.

    Raises:
        PluginError: they are of other positions.
    """
    if tuple(logits.shape[:2]) != positions:
        raise PluginError(
            f"{title} returned logits of shape {list(logits.shape)}, expected [B, S, vocabulary] "
            f"with B {positions[0]} and S {positions[1]}: the model of hook 'build_submodule' must "
            "put the batch first, as megatron's GPTModel does without labels",
            code="plugin.wrong-answer",
            module=title,
            hook="build_submodule",
            shape=tuple(logits.shape[:2]),
            expected=positions,
        )


def _samples(labels: torch.Tensor, lengths: torch.Tensor | None) -> list[int]:
    """Positions of each sample of a row of labels ``[B, S]``."""
    return [labels.shape[1]] if lengths is None else lengths.tolist()  # type: ignore[no-any-return]


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
