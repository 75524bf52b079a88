"""What keeps its bits: statistics of what does not learn, and buffers that count."""

from __future__ import annotations

import copy

import pytest
import torch
from mimo_plugin_lora.build import AdaptedPart, _keeps_statistics
from torch import nn

from mimo_core.model.precision import check_statistics, statistics_that_do_not_learn
from mimo_core.testing import raises_code


def tower() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4, affine=False))


def test_batch_norms_whose_weights_are_frozen_are_found() -> None:
    """One without weights of its own follows its part, which ``freeze`` puts into evaluation."""
    module = tower()
    assert list(statistics_that_do_not_learn(module)) == []
    assert list(statistics_that_do_not_learn(module.requires_grad_(False))) == [module[1]]


@pytest.mark.parametrize("learns", [True, False])
def test_statistics_that_move_are_refused_in_bf16(learns: bool) -> None:
    module = tower().train(learns)
    check_statistics("vision", module, torch.float32)
    if not learns:
        check_statistics("vision", module, torch.bfloat16)
        return
    with raises_code("recipe.invalid-value", module="vision", layer="1", value="bf16"):
        check_statistics("vision", module, torch.bfloat16)


def test_statistics_below_adapters_keep_every_bit() -> None:
    """In training mode too, after an evaluation, and with batch norms that have no weights."""

    class Part(AdaptedPart, nn.Sequential):
        def __init__(self, *layers: nn.Module) -> None:
            nn.Sequential.__init__(self, *layers)
            self._lora_statistics = [one for one in self.modules() if _keeps_statistics(one)]

    part = Part(*tower())
    part.eval()
    part.train()
    before = copy.deepcopy(dict(part.named_buffers()))
    part(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)))
    assert part.training
    assert all(torch.equal(before[name], now) for name, now in part.named_buffers())
    plain = tower()
    plain(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)))
    moved = [not torch.equal(before[name], now) for name, now in plain.named_buffers()]
    assert all(moved)
