"""Experts' products in one kernel, against one expert after another."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any, cast

import pytest
import torch
from torch import nn

from mimo_core.megatron_patches.wgrad_accumulation import WgradGemmAccumulator
from mimo_core.model.moe.grouped_gemm import grouped_product, lay_out, stacked

COUNTS = (5, 0, 11)
"""Tokens of three experts: one gets none."""


class Grouped(nn.Module):
    """Stands for a grouped layer of TransformerEngine, which has a parameter for each expert."""

    def __init__(self) -> None:
        super().__init__()
        for number, _ in enumerate(COUNTS):
            setattr(self, f"weight{number}", nn.Parameter(torch.randn(16, 8)))

    @property
    def weights(self) -> list[nn.Parameter]:
        return [getattr(self, f"weight{number}") for number, _ in enumerate(COUNTS)]


def one_by_one(rows: torch.Tensor, weights: list[nn.Parameter]) -> torch.Tensor:
    groups = rows.split(COUNTS)
    return torch.cat([rows @ weight.t() for rows, weight in zip(groups, weights, strict=True)])


def buffered(linear: Grouped) -> Grouped:
    """As megatron's buffers hold parameters: from the last to the first, 64 numbers apart."""
    buffer = torch.zeros(3 * (16 * 8 + 64))
    gradients = torch.ones_like(buffer)
    place = 0
    for parameter in reversed([*linear.parameters()]):
        span = slice(place, place + parameter.numel())
        buffer[span] = parameter.detach().flatten()
        parameter.data = buffer[span].view_as(parameter)
        parameter.main_grad = gradients[span].view_as(parameter)  # type: ignore[attr-defined]
        parameter.grad_added_to_main_grad = False  # type: ignore[attr-defined]
        place += parameter.numel() + 64
    return linear


@pytest.mark.parametrize("in_order", [True, False])
def test_products_and_gradients_are_those_of_each_expert(in_order: bool) -> None:
    """In order, nothing is copied; else weights are, and gradients are added one by one."""
    torch.manual_seed(0)
    linear = Grouped()
    if in_order:
        lay_out(linear)
    weights = buffered(linear).weights
    rows = torch.randn(sum(COUNTS), 8, requires_grad=True)
    ends = torch.tensor(COUNTS).cumsum(0, dtype=torch.int32)
    output = grouped_product(rows, ends, weights)
    expected = one_by_one(rows, weights)
    torch.testing.assert_close(output, expected)

    upstream = torch.randn_like(output)
    wanted = torch.autograd.grad(expected, [rows, *weights], upstream)
    output.backward(upstream)
    assert rows.grad is not None
    torch.testing.assert_close(rows.grad, wanted[0])
    for weight, gradient in zip(weights, wanted[1:], strict=True):
        # On top of what was there: 1 everywhere. Megatron's hook throws the other away.
        torch.testing.assert_close(cast(Any, weight).main_grad, gradient + 1)
        assert cast(Any, weight).grad_added_to_main_grad
    shared = stacked(weights).untyped_storage().data_ptr()
    assert (shared == weights[0].untyped_storage().data_ptr()) is in_order


def test_weights_without_a_buffer_get_gradients_of_their_own() -> None:
    torch.manual_seed(0)
    weights = Grouped().weights
    rows = torch.randn(sum(COUNTS), 8)
    ends = torch.tensor(COUNTS).cumsum(0, dtype=torch.int32)
    grouped_product(rows, ends, weights).square().sum().backward()
    mine = [weight.grad for weight in weights]
    wanted = torch.autograd.grad(one_by_one(rows, weights).square().sum(), weights)
    torch.testing.assert_close(mine, [*wanted])

    weights[0].requires_grad_(False)
    frozen = [weight.requires_grad_(False) for weight in weights]
    assert stacked(frozen).data_ptr() != frozen[0].data_ptr()
    with_rows = rows.requires_grad_()
    grouped_product(with_rows, ends, frozen).sum().backward()
    torch.testing.assert_close(
        with_rows.grad, torch.autograd.grad(one_by_one(with_rows, weights).sum(), with_rows)[0]
    )


def test_weights_that_do_not_learn_are_not_copied() -> None:
    """They are in no buffer of Megatron's; what they hold is the same."""
    linear = Grouped().requires_grad_(False)
    before = [weight.clone() for weight in linear.weights]
    lay_out(linear)
    torch.testing.assert_close(linear.weights, before)
    assert stacked(linear.weights).data_ptr() == linear.weight0.data_ptr()  # type: ignore[operator]
    assert list(linear.state_dict()) == ["weight2", "weight1", "weight0"]


def test_a_rank_without_tokens_gives_nothing_and_gets_gradients_all_the_same() -> None:
    """With ep above 1 all tokens may go to others; parameters still report to their buffers."""
    weights = buffered(Grouped()).weights
    rows = torch.randn(0, 8, requires_grad=True)
    output = grouped_product(rows, torch.zeros(3, dtype=torch.int32), weights)
    output.sum().backward()
    assert output.shape == (0, 16) and rows.grad is not None and rows.grad.shape == (0, 8)
    for weight in weights:
        assert (cast(Any, weight).main_grad == 1).all() and weight.grad is not None
    alone = Grouped().weights
    grouped_product(rows, torch.zeros(3, dtype=torch.int32), alone).sum().backward()
    assert all((weight.grad == 0).all() for weight in alone)  # type: ignore[union-attr]


def test_the_gradient_of_a_weight_is_added_in_place() -> None:
    rows, gradient, whole = torch.randn(6, 4), torch.randn(6, 3), torch.ones(3, 4)
    WgradGemmAccumulator.wgrad_gemm_accum_fp32(rows, gradient, whole)
    torch.testing.assert_close(whole, gradient.t() @ rows + 1)


KERNEL = """
import torch
from mimo_core.model.moe.grad_accumulate_kernel import grouped_add_

generator = torch.Generator().manual_seed(0)
whole = torch.randn(4, 50, 100, generator=generator)
part = torch.randn(4, 50, 100, generator=generator).bfloat16()
ends = torch.tensor([2, 2, 5, 6], dtype=torch.int32)
part[1] = float("nan")
expected = whole + part.float()
expected[1] = whole[1]
grouped_add_(whole, part, ends)
assert torch.equal(whole, expected)
"""


def test_the_kernel_adds_but_for_groups_without_rows() -> None:
    """By Triton's interpreter: whatever a product of nothing is, it is left out."""
    pytest.importorskip("triton")
    environ = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run(
        [sys.executable, "-c", KERNEL],
        env=environ,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def test_the_kernel_that_adds_compiles() -> None:
    """For a Hopper GPU, without one: what Triton's compiler refuses, its interpreter takes."""
    compiler = pytest.importorskip("triton.compiler")
    from triton.backends.compiler import GPUTarget

    from mimo_core.model.moe import grad_accumulate_kernel

    types = {"whole": "*fp32", "part": "*bf16", "ends": "*i32", "size": "i64"}
    signature = {**types, "BLOCK": "constexpr"}
    source = compiler.ASTSource(grad_accumulate_kernel._add, signature, {(4,): 4096})
    compiled = compiler.compile(source, target=GPUTarget("cuda", 90, 32))
    assert "ld.global" in compiled.asm["ptx"] and len(compiled.asm["cubin"])
