"""Which layers may be captured as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from megatron.core.ssm.mamba_layer import MambaLayer
from megatron.core.transformer.enums import CudaGraphModule
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.moe.moe_layer import MoELayer
from megatron.core.transformer.transformer_block import TransformerBlock
from megatron.core.transformer.transformer_layer import MoETransformerLayer, TransformerLayer

from mimo_core.model.cuda_graphs.layers import check_parts
from mimo_core.testing import raises_code


class Moe(MoELayer):  # type: ignore[misc]
    def __init__(self, *, in_one_kernel: bool, alone: bool) -> None:
        torch.nn.Module.__init__(self)
        self.experts = cast(Any, SimpleNamespace(in_one_kernel=in_one_kernel))
        self.token_dispatcher = cast(Any, SimpleNamespace(alone=alone))


class Alone(MoETransformerLayer):  # type: ignore[misc]
    def __init__(self, mlp: torch.nn.Module) -> None:
        torch.nn.Module.__init__(self)
        self.mlp = mlp


class WithAttention(TransformerLayer):  # type: ignore[misc]
    def __init__(self, mlp: torch.nn.Module) -> None:
        torch.nn.Module.__init__(self)
        self.mlp, self.self_attention = mlp, self.attention()

    attention: Callable[[], torch.nn.Module] = torch.nn.Identity


class WithoutAttention(WithAttention):
    attention = IdentityOp


class Block(TransformerBlock):  # type: ignore[misc]
    __init__ = torch.nn.Module.__init__


class Mamba(MambaLayer):  # type: ignore[misc]
    __init__ = torch.nn.Module.__init__


def check(
    layer: torch.nn.Module, *parts: str, captured: bool = True, aux_loss: float = 0.0
) -> None:
    if captured:
        layer.cudagraph_manager = torch.nn.Identity()
    modules = [CudaGraphModule[part] for part in parts]
    config: Any = SimpleNamespace(
        cuda_graph_impl="local",
        cuda_graph_modules=modules,
        moe_aux_loss_coeff=aux_loss,
        moe_z_loss_coeff=None,
    )
    check_parts(config, torch.nn.ModuleDict({"layer": layer}))


def test_experts_that_wait_for_nothing_are_captured() -> None:
    for kind, part in ((Alone, "moe"), (WithAttention, "attn")):
        check(kind(Moe(in_one_kernel=True, alone=True)), part)
    # Core captures them with the attention of their layer alone.
    both = torch.nn.ModuleDict({"attention": WithAttention(torch.nn.Identity())})
    both["attention"].cudagraph_manager = torch.nn.Identity()
    both["experts"] = Alone(Moe(in_one_kernel=False, alone=True))
    check(both, "attn", captured=False)


@pytest.mark.parametrize(("in_one_kernel", "alone"), [(False, True), (True, False)])
def test_experts_that_wait_for_the_host_are_refused(in_one_kernel: bool, alone: bool) -> None:
    for kind, word in ((Alone, "moe"), (WithAttention, "attn")):
        moe = Moe(in_one_kernel=in_one_kernel, alone=alone)
        with raises_code("megatron.cuda-graphs", layer="layer", value=word, losses=None):
            check(kind(moe), word)


def test_experts_with_losses_of_their_router_are_refused() -> None:
    for kind, word in ((Alone, "moe"), (WithAttention, "attn")):
        moe = Moe(in_one_kernel=True, alone=True)
        losses = ("moe_aux_loss_coeff",)
        with raises_code("megatron.cuda-graphs", layer="layer", value=word, losses=losses):
            check(kind(moe), word, aux_loss=0.01)


def test_a_part_that_captures_nothing_is_refused() -> None:
    experts = Moe(in_one_kernel=True, alone=True)
    for kind, part in (
        (WithAttention(experts), "moe"),
        (WithAttention(torch.nn.Identity()), "mamba"),
        (Mamba(), "attn"),
        (Alone(experts), "attn"),
        (WithoutAttention(torch.nn.Identity()), "attn"),
    ):
        with raises_code("megatron.cuda-graphs", value=part, layer=None):
            check(kind, part)
    with raises_code("megatron.cuda-graphs", value="mamba", layer=None):
        check(Mamba(), "mamba", captured=False)
    # Core gives a manager for inference to what the layers are in.
    with raises_code("megatron.cuda-graphs", value="attn", layer=None):
        check(Block(), "attn")


def test_parts_that_a_model_has_are_captured() -> None:
    check(Mamba(), "mamba")
    check(WithAttention(torch.nn.Identity()), "attn")
    check(torch.nn.Identity(), "attn")  # of a plugin's own kind: who knows
