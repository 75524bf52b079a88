"""Packed samples against each alone, on two ranks; only here megatron is imported."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from megatron.core.packed_seq_params import PackedSeqParams
from nemotron_modules import VOCABULARY
from nemotron_ranks import Built, error_of, gradient_error, pipelined, positions
from torch import Tensor

from mimo_core.contract import Grid
from mimo_core.model.packing import packing_kwargs

MEGATRON = {"apply_query_key_layer_scaling": True}
"""Megatron then divides the scores by the layer's number, and multiplies by it in the softmax."""

Sample = tuple[Tensor, Tensor, Tensor]
"""Ids, labels and weights of the losses, each ``[1, s]``."""


def two_ranks(platform: Any, lengths: list[int], grids: list[dict[str, int]]) -> dict[str, Any]:
    """Largest differences of packed samples on each grid from each sample alone on one rank; and
    the error of what packed attention cannot do."""
    # Both ranks hold the whole model.
    whole = Built(platform, Grid(dp=2), MEGATRON)
    samples = [_sample(length) for length in lengths]
    alone = []
    for sample in samples:
        logits = _logits(whole, sample[0])
        _loss(whole, logits, sample).backward()
        alone.append(logits.detach())
    expected = torch.cat(alone, dim=1)
    results: dict[str, Any] = {}
    for sizes in grids:
        part = Built(platform, Grid(**sizes), MEGATRON)
        part.take_weights(whole)
        results[str(sizes)] = _compare(whole, expected, part, samples)
    results["pp"] = {"logits": _on_stages(platform, whole, expected, samples)}
    windowed = Built(platform, Grid(dp=2), {"window_size": [4, 0]}, pattern="*")
    (ids, _, _), _ = _together(samples)
    results["window"] = error_of(lambda: _logits(windowed, ids, lengths))
    return results


def _sample(length: int) -> Sample:
    generator = torch.Generator().manual_seed(length)
    ids, labels = torch.randint(0, VOCABULARY, (2, 1, length), generator=generator)
    return ids, labels, torch.rand(1, length, generator=generator)


def _logits(built: Built, ids: Tensor, lengths: list[int] | None = None) -> Tensor:
    """``[1, S, V / tp]``."""
    packed = None if lengths is None else packing(lengths)
    output: Tensor = built.model(ids, positions(ids), None, packed_seq_params=packed)
    return output


def packing(lengths: list[int]) -> PackedSeqParams:
    given = packing_kwargs(torch.tensor(lengths, dtype=torch.int32), torch.device("cpu"))
    return PackedSeqParams(qkv_format="thd", **given)


def _loss(built: Built, logits: Tensor, sample: Sample) -> Tensor:
    _, labels, weights = sample
    # Megatron's cross entropy writes into the logits that it is given.
    losses = built.model.compute_language_model_loss(labels, logits.transpose(0, 1).clone())
    total: Tensor = (losses * weights).sum()
    return total


def _together(samples: list[Sample]) -> tuple[Sample, list[int]]:
    ids, labels, weights = (torch.cat(parts, dim=1) for parts in zip(*samples, strict=True))
    return (ids, labels, weights), [sample[0].shape[1] for sample in samples]


def _compare(
    whole: Built, expected: Tensor, part: Built, samples: list[Sample]
) -> dict[str, float]:
    row, lengths = _together(samples)
    logits = _logits(part, row[0], lengths)
    # Every data-parallel rank takes all samples, and an equal share of the sum of losses.
    (_loss(part, logits, row) / part.groups.dp.size()).backward()
    shard = expected.chunk(part.groups.tp.size(), dim=-1)[part.groups.tp.rank()]
    return {
        "logits": (logits - shard).abs().max().item(),
        "gradients": gradient_error(whole, part),
    }


def _on_stages(platform: Any, whole: Built, expected: Tensor, samples: list[Sample]) -> float:
    """Logits of the last of two pipeline stages, which are joined by hand."""
    part = pipelined(platform, whole, megatron=MEGATRON)
    (ids, _, _), lengths = _together(samples)
    hidden = torch.empty(ids.shape[1], 1, part.module.options.hidden_size)
    if part.groups.pp.rank() == 0:
        hidden = _logits(part, ids, lengths).detach()
    dist.broadcast(hidden, 0)
    if part.groups.pp.rank() == 0:
        return 0.0
    part.model.set_input_tensor(hidden)
    return (_logits(part, ids, lengths) - expected).abs().max().item()
