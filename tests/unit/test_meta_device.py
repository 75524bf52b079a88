"""Weights that get memory late stay what they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from megatron.training.models import dist_utils
from torch import nn

from mimo_core.megatron_patches import meta_device


def on_meta() -> nn.Module:
    """A norm whose gradients are added up over ranks, and a table that two layers use."""
    with torch.device("meta"):
        model: Any = nn.ModuleDict(
            {"norm": nn.LayerNorm(3), "table": nn.Embedding(5, 3), "head": nn.Linear(3, 5)}
        )
    model["head"].weight = model["table"].weight
    model["norm"].weight.sequence_parallel = True
    model["table"].weight.allreduce = False
    model["head"].bias = nn.Parameter(torch.ones(5))
    return model  # type: ignore[no-any-return]


def test_attributes_and_ties_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist_utils, "to_empty_if_meta_device", meta_device._STOCK)
    cpu = torch.device("cpu")
    stock: Any = dist_utils.to_empty_if_meta_device(on_meta(), device=cpu)
    kept = getattr(stock["norm"].weight, "sequence_parallel", False)
    tied = stock["head"].weight is stock["table"].weight
    assert not kept and not tied, "megatron keeps them now: megatron_patches/meta_device.py can go"
    meta_device.patch_meta_materialization()
    mended: Any = dist_utils.to_empty_if_meta_device(on_meta(), device=cpu)
    assert {each.device for each in mended.parameters()} == {cpu}
    assert mended["norm"].weight.sequence_parallel is True
    assert mended["table"].weight.allreduce is False
    assert mended["head"].weight is mended["table"].weight
    assert torch.equal(mended["head"].bias, torch.ones(5))
    assert len([*mended.parameters()]) == 4
