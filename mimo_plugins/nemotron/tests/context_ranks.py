"""Rows that context-parallel ranks share against whole ones; only here megatron is imported."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from nemotron_modules import VOCABULARY
from nemotron_ranks import Built, gradient_error
from torch import Tensor

from mimo_core.contract import Grid
from mimo_core.distributed.context_parallel import local_positions
from mimo_core.model.packing import packing_kwargs

OPTIONS = {"router_aux_loss": 0.01}
RECOMPUTED = {"recompute_granularity": "selective", "recompute_modules": ["core_attn", "moe"]}


def four_ranks(platform: Any, rows: dict[str, Any], grids: list[dict[str, int]]) -> dict[str, Any]:
    """Largest differences of each grid from the whole model on one rank, by kind of row.

    Args:
        rows: By name: the number of rows, and the lengths of the samples that lie end to end in
            each, or one length for a row that is not packed.
        grids: Over all four ranks.
    """
    # Every rank holds the whole model.
    whole = Built(platform, Grid(dp=4), **OPTIONS)
    results: dict[str, Any] = {name: {} for name in rows}
    for name, (count, lengths) in rows.items():
        ids = _row(count, sum(lengths))
        whole.model.zero_grad()
        expected = whole.losses(ids, ids.roll(-1, 1), _packing(lengths))
        expected.sum().backward()
        for sizes in grids:
            megatron = RECOMPUTED if sizes == grids[-1] else None
            part = Built(platform, Grid(**sizes), megatron, **OPTIONS)
            part.take_weights(whole)
            results[name][str(sizes)] = _compare(whole, expected, part, ids, lengths)
    return results


def _row(count: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, VOCABULARY, (count, length), generator=generator)


def _packing(lengths: list[int]) -> PackedSeqParams | None:
    if len(lengths) == 1:
        return None
    given = packing_kwargs(torch.tensor(lengths, dtype=torch.int32), torch.device("cpu"))
    return PackedSeqParams(qkv_format="thd", **given)


def _compare(
    whole: Built, expected: Tensor, part: Built, ids: Tensor, lengths: list[int]
) -> dict[str, float]:
    cp = part.groups.cp
    own = local_positions(lengths, cp.size(), cp.rank())
    losses = part.losses(ids[:, own], ids.roll(-1, 1)[:, own], _packing(lengths))
    # Every data-parallel rank takes all rows, and an equal share of the sum of losses.
    scale_auxiliary_loss(1 / part.groups.dp.size())
    (losses.sum() / part.groups.dp.size()).backward()
    scale_auxiliary_loss(1.0)
    return {
        "losses": (losses - expected[:, own]).abs().max().item(),
        "gradients": gradient_error(whole, part),
    }


def scale_auxiliary_loss(scale: float) -> None:
    from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler

    MoEAuxLossAutoScaler.set_loss_scale(torch.tensor(scale))
