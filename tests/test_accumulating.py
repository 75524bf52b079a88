"""Which layers add gradients of their weights in the matrix product."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from megatron.core.distributed import DistributedDataParallel
from torch import nn

from mimo_core.model.mimo import Model


class Engines(nn.Module):
    """Stands for a layer of TransformerEngine."""

    def __init__(self, *weights: str) -> None:
        super().__init__()
        self.fuse_wgrad_accumulation = False
        if weights:
            self.weight_names = [*weights]


def test_layers_whose_weight_is_one_parameter_add_in_the_product() -> None:
    """``te.MultiheadAttention`` puts its weight together of three in every forward: what it has
    then has no ``main_grad``, and TransformerEngine 2.20 fails over that in backward. Its grouped
    layers name no weights."""
    one, three, grouped = Engines("weight"), Engines("query", "key", "value"), Engines()
    wrapped = DistributedDataParallel.__new__(DistributedDataParallel)
    nn.Module.__init__(wrapped)
    wrapped.module = nn.Sequential(one, three, grouped, nn.Linear(1, 1))
    alone = Engines("weight")
    modules = {"language": wrapped, "vision": alone}
    Model.accumulate_in_products(
        cast(Any, SimpleNamespace(nodes=modules, active=modules.__getitem__)),
        cast(Any, SimpleNamespace(name="cpu")),
    )
    layers = (one, three, grouped, alone)
    assert [each.fuse_wgrad_accumulation for each in layers] == [True, False, True, False]
