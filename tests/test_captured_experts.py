"""Which layers of experts may be captured as CUDA graphs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from megatron.core.transformer.enums import CudaGraphModule
from megatron.core.transformer.moe.moe_layer import MoELayer
from megatron.core.transformer.transformer_layer import MoETransformerLayer, TransformerLayer

from mimo_core.model.layer_graphs import check_experts


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
    __init__ = Alone.__init__


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
    check_experts(config, torch.nn.ModuleDict({"layer": layer}))


def test_experts_that_wait_for_nothing_are_captured() -> None:
    for kind, parts in ((Alone, ("attn", "moe")), (WithAttention, ("attn",))):
        check(kind(Moe(in_one_kernel=True, alone=True)), *parts)
    # Core captures them with the attention of their layer alone.
    check(Alone(Moe(in_one_kernel=False, alone=True)), "attn", captured=False)


@pytest.mark.parametrize(("in_one_kernel", "alone"), [(False, True), (True, False)])
def test_experts_that_wait_for_the_host_are_refused(in_one_kernel: bool, alone: bool) -> None:
    for kind, word in ((Alone, "moe"), (WithAttention, "attn")):
        moe = Moe(in_one_kernel=in_one_kernel, alone=alone)
        with pytest.raises(ValueError, match=f"experts of layer cannot .*; leave {word} out"):
            check(kind(moe), "attn", *({word} - {"attn"}))


def test_experts_with_losses_of_their_router_are_refused() -> None:
    for kind, word in ((Alone, "moe"), (WithAttention, "attn")):
        moe = Moe(in_one_kernel=True, alone=True)
        with pytest.raises(ValueError, match=f"moe_aux_loss_coeff.*; leave {word} or these out"):
            check(kind(moe), "attn", *({word} - {"attn"}), aux_loss=0.01)


def test_a_model_of_which_no_experts_are_captured_is_refused() -> None:
    together = WithAttention(Moe(in_one_kernel=True, alone=True))
    for layer in (together, torch.nn.Identity()):
        with pytest.raises(ValueError, match="moe captures nothing"):
            check(layer, "moe", captured=False)
