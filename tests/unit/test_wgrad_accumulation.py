"""Which layers add gradients of their weights where they compute them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.tensor_parallel import VocabParallelEmbedding
from torch import nn

from mimo_core.megatron_patches.wgrad_accumulation import add_rows
from mimo_core.model.mimo_model import RankMimoModel


class Engines(nn.Module):
    """Stands for a layer of TransformerEngine."""

    def __init__(self, *weights: str) -> None:
        super().__init__()
        self.fuse_wgrad_accumulation = False
        if weights:
            self.weight_names = [*weights]


def accumulate(**modules: nn.Module) -> None:
    """Of a rank with these modules."""
    RankMimoModel.accumulate_in_products(
        cast(Any, SimpleNamespace(nodes=modules, active=modules.__getitem__)),
        cast(Any, SimpleNamespace(name="cpu")),
    )


def wrap(*layers: nn.Module) -> DistributedDataParallel:
    wrapped = DistributedDataParallel.__new__(DistributedDataParallel)
    nn.Module.__init__(wrapped)
    wrapped.module = nn.Sequential(*layers)
    return wrapped


def test_layers_whose_weight_is_one_parameter_add_in_the_product() -> None:
    """``te.MultiheadAttention`` puts its weight together of three in every forward: what it has
    then has no ``main_grad``, and TransformerEngine 2.20 fails over that in backward. Its grouped
    layers name no weights."""
    one, three, grouped = Engines("weight"), Engines("query", "key", "value"), Engines()
    alone = Engines("weight")
    accumulate(language=wrap(one, three, grouped, nn.Linear(1, 1)), vision=alone)
    layers = (one, three, grouped, alone)
    assert [each.fuse_wgrad_accumulation for each in layers] == [True, False, True, False]


DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Table:
    """Core's embedding of seven words, as it is on a rank alone, and core's hook behind it."""

    def __init__(self, *, dtype: torch.dtype = torch.float32, sums: torch.dtype = torch.float32):
        layer: Any = VocabParallelEmbedding.__new__(VocabParallelEmbedding)
        nn.Module.__init__(layer)
        layer.tp_group = SimpleNamespace(size=lambda: 1)
        layer.deterministic_mode = layer.reduce_scatter_embeddings = False
        layer.gtp_remat_size = 1
        self.weight = weight = nn.Parameter(torch.arange(21.0, device=DEVICE).view(7, 3).to(dtype))
        layer.weight = weight
        weight.main_grad = torch.full_like(weight, 0.5, dtype=sums)  # type: ignore[attr-defined]
        weight.grad_added_to_main_grad = False  # type: ignore[attr-defined]
        self.ready = 0
        self.layer = layer
        group = SimpleNamespace(register_grad_ready=self._count)
        wrapper: Any = SimpleNamespace(
            param_to_bucket_group={weight: group},
            ddp_config=SimpleNamespace(overlap_grad_reduce=True),
            force_all_reduce=False,
        )
        hook = DistributedDataParallel._make_backward_post_hook(wrapper, weight)
        self._node = weight.expand_as(weight).grad_fn.next_functions[0][0]  # type: ignore[union-attr]
        self._node.register_hook(hook)

    def _count(self, *_: Any) -> None:
        self.ready += 1

    @property
    def sums(self) -> torch.Tensor:
        return self.weight.main_grad  # type: ignore[attr-defined,no-any-return]


IDS = torch.tensor([[3, 0, 3], [6, 3, 0]], device=DEVICE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_embedding_adds_to_the_rows_that_were_looked_up(dtype: torch.dtype) -> None:
    """Words that come several times, in two microbatches; reduction is told of each."""
    table = Table(dtype=dtype)
    plain = table.weight.detach().float().requires_grad_()
    accumulate(language=wrap(nn.Linear(1, 1), table.layer))
    for _ in range(2):
        rows = table.layer(IDS)
        assert torch.equal(rows, table.weight[IDS])
        upstream = torch.randn_like(rows)
        nn.functional.embedding(IDS, plain).backward(upstream.float())
        with torch.profiler.profile() as profile:
            rows.backward(upstream)
        assert "aten::embedding_dense_backward" not in {each.name for each in profile.events()}
    assert plain.grad is not None
    torch.testing.assert_close(table.sums, 0.5 + plain.grad)
    assert table.ready == 2 and table.weight.grad is None


@pytest.mark.parametrize("shared", ["by its output layer", "and core knows"])
def test_what_else_uses_the_embedding_s_weight_is_added_too(shared: str) -> None:
    """A tied model of core says so; a plugin's own need not."""
    table = Table()
    if shared == "and core knows":
        table.weight.zero_out_wgrad = True  # type: ignore[attr-defined]
    add_rows(table.layer)
    plain = table.weight.detach().clone().requires_grad_()
    for weight, look_up in (
        (table.weight, table.layer),
        (plain, lambda ids: nn.functional.embedding(ids, plain)),
    ):
        hidden = look_up(IDS)
        logits = nn.functional.linear(hidden.square(), weight)
        (logits.sum() + nn.functional.embedding(IDS, weight).square().sum()).backward()
    assert plain.grad is not None
    torch.testing.assert_close(table.sums, 0.5 + plain.grad)


def test_another_table_that_is_looked_up_beside_it_learns_as_ever() -> None:
    table, other = Table(), torch.randn(7, 3, device=DEVICE, requires_grad=True)
    stock = table.layer.forward
    table.layer.forward = lambda ids: stock(ids) + nn.functional.embedding(ids, other)
    add_rows(table.layer)
    upstream = torch.randn(2, 3, 3, device=DEVICE)
    table.layer(IDS).backward(upstream)
    assert other.grad is not None
    torch.testing.assert_close(table.sums, 0.5 + other.grad)


@pytest.mark.parametrize("why", ["sums in bf16", "frozen"])
def test_an_embedding_is_left_to_autograd_where_that_must_be(why: str) -> None:
    """Sums that would round at every row."""
    table = Table(sums=torch.bfloat16)
    if why == "frozen":
        del table.weight.main_grad
        table.weight.requires_grad_(False)
    add_rows(table.layer)
    rows = table.layer(IDS)
    if why == "frozen":
        assert not rows.requires_grad
        return
    with torch.profiler.profile() as profile:
        rows.backward(torch.randn_like(rows))
    assert "aten::embedding_dense_backward" in {each.name for each in profile.events()}
