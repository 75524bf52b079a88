"""Which layers add gradients of their weights where they compute them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.tensor_parallel import VocabParallelEmbedding
from torch import nn

from mimo_core.model.mimo import Model
from mimo_core.model.own_sums import add_rows


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


def table(*, dtype: torch.dtype = torch.float32, sums: torch.dtype = torch.float32) -> Any:
    """Core's embedding of seven words, as it is on a rank alone."""
    layer: Any = VocabParallelEmbedding.__new__(VocabParallelEmbedding)
    nn.Module.__init__(layer)
    layer.tp_group = SimpleNamespace(size=lambda: 1)
    layer.deterministic_mode = layer.reduce_scatter_embeddings = False
    layer.gtp_remat_size = 1
    layer.weight = nn.Parameter(torch.arange(21.0).view(7, 3).to(dtype))
    layer.weight.main_grad = torch.full((7, 3), 0.5, dtype=sums)
    layer.weight.grad_added_to_main_grad = False
    return layer


def whole(layer: Any, ids: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """What autograd makes of it: a gradient of the whole table."""
    weight = layer.weight.detach().float().requires_grad_()
    nn.functional.embedding(ids, weight).backward(gradient.float())
    assert weight.grad is not None
    return weight.grad


IDS = torch.tensor([[3, 0, 3], [6, 3, 0]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_embedding_adds_to_the_rows_that_were_looked_up(dtype: torch.dtype) -> None:
    """Words that come several times, in two microbatches."""
    layer = table(dtype=dtype)
    expected = layer.weight.main_grad.clone()
    add_rows(layer)
    for _ in range(2):
        rows = layer(IDS)
        assert torch.equal(rows, layer.weight[IDS])
        upstream = torch.randn_like(rows)
        expected += whole(layer, IDS, upstream)
        with torch.profiler.profile() as profile:
            rows.backward(upstream)
        assert "aten::embedding_dense_backward" not in {each.name for each in profile.events()}
    torch.testing.assert_close(layer.weight.main_grad, expected)
    # For core's hook: something, which it does not add.
    assert layer.weight.grad_added_to_main_grad and layer.weight.grad.shape == (7, 3)


@pytest.mark.parametrize("why", ["shared", "sums in bf16", "frozen"])
def test_an_embedding_is_left_to_autograd_where_that_must_be(why: str) -> None:
    """One whose weight the output layer uses too; sums that would round at every row."""
    layer = table(sums=torch.bfloat16 if why == "sums in bf16" else torch.float32)
    if why == "shared":
        layer.weight.zero_out_wgrad = True
    if why == "frozen":
        del layer.weight.main_grad
    add_rows(layer)
    rows = layer(IDS)
    upstream = torch.randn_like(rows)
    rows.backward(upstream)
    assert torch.equal(layer.weight.grad, whole(layer, IDS, upstream))
    assert not layer.weight.grad_added_to_main_grad
