"""CUDA graphs of the language model's layers: megatron's own, made to fit a run of several grids.

A layer with many small kernels (a Mamba layer has about a hundred in a microbatch) keeps the GPU
waiting for Python. megatron-core 0.19 (``cuda_graph_impl: local``) runs the first step as ever,
captures each named layer's forward and backward at its end, and replays them from then on. The
backward adds gradients to ``main_grad`` inside the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from megatron.core.models.hybrid.hybrid_model import HybridModel
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.ssm.mamba_layer import MambaLayer
from megatron.core.tensor_parallel import random
from megatron.core.transformer import TransformerConfig, cuda_graphs
from megatron.core.transformer.enums import CudaGraphModule
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.moe.moe_layer import MoELayer
from megatron.core.transformer.transformer_block import TransformerBlock
from megatron.core.transformer.transformer_layer import (
    MoETransformerLayer,
    TransformerLayer,
)

from mimo_core.errors import MimoError
from mimo_core.platforms.base import Captured, RankPlatform

_STOCK = cuda_graphs.CudaGraphManager
_PLACE = "modules.language.megatron.cuda_graph_modules"
_LAYERS = {
    CudaGraphModule.mamba: "no Mamba layer",
    CudaGraphModule.attn: "no layer with attention",
    CudaGraphModule.moe: "no layer of experts alone (one with attention is captured whole where "
    "attn is listed)",
}
_OF_INFERENCE = (HybridModel, TransformerBlock)
"""Have a manager too, which is not asked in training."""
_LOSSES = ("moe_aux_loss_coeff", "moe_z_loss_coeff")
_BACKWARD = cuda_graphs._CudaGraphRunner.create_bwd_graph


def capture_layers(
    config: TransformerConfig, groups: ProcessGroupCollection, platform: RankPlatform
) -> None:
    """Make this process ready for the graphs that a module's config asks for, if it asks for any.
    Called on the ranks of the language model, before anything is seeded or built.
    """
    if platform.name != "cuda":
        config.cuda_graph_impl = "none"  # A plugin's own word; the recipe's did not get here.
    if config.cuda_graph_impl == "none":
        return
    prepare_generators(platform)
    # Layers look the class up by this name when they are built, and so does its own module.
    cuda_graphs.CudaGraphManager = manager_of(groups)
    cuda_graphs._CudaGraphRunner.create_bwd_graph = _capture_backward


def prepare_generators(platform: RankPlatform) -> None:
    """Have megatron's tracker hold generators that can be registered with graphs; the default one
    holds plain tensors. Called before anything is seeded or built.

    TransformerEngine's attention, which turns to them whether it draws or not, is captured with
    TransformerEngine's own tracker alone.
    """
    random.initialize_rng_tracker(
        use_te_rng_tracker=platform.transformer_engine,
        use_cudagraphable_rng=True,
        force_reset=True,
    )


def capture(platform: RankPlatform, function: Callable[[], torch.Tensor]) -> Captured:
    """Keep what a function does on the device; it may turn to the tracker's generators."""
    return platform.capture(function, random.get_all_rng_states().values())


def experts_of_graphs(fields: dict[str, Any]) -> bool:
    """Take ``moe`` out of the fields of a config, if it is among ``cuda_graph_modules``.

    megatron-core 0.19 refuses it unless tokens are dropped (``TransformerConfig.__post_init__``):
    its experts take the number of tokens from the host. ``GroupedExperts`` of one rank do not.
    """
    parts = fields.get("cuda_graph_modules") or []
    if CudaGraphModule.moe.name not in parts:
        return False
    fields["cuda_graph_modules"] = [part for part in parts if part != CudaGraphModule.moe.name]
    return True


def check_parts(config: TransformerConfig, model: torch.nn.Module) -> None:
    """Whether there are layers of all parts that are to be captured, and all experts can be that
    are: those of ``moe``, and those that core captures with the attention of their layer. Called on
    the ranks of the language model, once it is built.

    Raises:
        MimoError: a part that is listed captures nothing; or experts take the number of their
            tokens from the host, which would wait for it, or have auxiliary losses.
    """
    if config.cuda_graph_impl == "none":
        return
    captured = {
        name: layer
        for name, layer in model.named_modules()
        if hasattr(layer, "cudagraph_manager") and not isinstance(layer, _OF_INFERENCE)
    }
    there = [part for layer in captured.values() for part in _parts(layer)]
    for part in config.cuda_graph_modules:
        if part not in there:
            raise MimoError(
                f"{_PLACE}: {part.name} captures nothing: this model has {_LAYERS[part]}; leave "
                f"{part.name} out",
                code="megatron.cuda-graphs",
                value=part.name,
            )
    _check_experts(config, captured)


def _parts(layer: torch.nn.Module) -> Iterator[CudaGraphModule]:
    """What is in a layer's graph, in the words of the recipe."""
    if isinstance(layer, MambaLayer):
        yield CudaGraphModule.mamba
    elif isinstance(layer, MoETransformerLayer):
        yield CudaGraphModule.moe
    elif isinstance(layer, TransformerLayer):
        if not isinstance(layer.self_attention, IdentityOp):
            yield CudaGraphModule.attn
    else:
        yield from CudaGraphModule  # a plugin's own kind of layer


def _check_experts(config: TransformerConfig, captured: Mapping[str, torch.nn.Module]) -> None:
    losses = [name for name in _LOSSES if getattr(config, name)]
    for name, layer in captured.items():
        moe = getattr(layer, "mlp", None)
        if not isinstance(moe, MoELayer):
            continue
        word = "moe" if isinstance(layer, MoETransformerLayer) else "attn"
        if losses:
            raise MimoError(
                f"{_PLACE}: the experts of {name} are not captured with {' and '.join(losses)}: "
                "the capture would count a step's losses of the router again, and that such a "
                f"model learns the same has not been shown; leave {word} or these out",
                code="megatron.cuda-graphs",
                layer=name,
                value=word,
                losses=tuple(losses),
            )
        one_kernel = getattr(moe.experts, "in_one_kernel", False)
        if not (one_kernel and getattr(moe.token_dispatcher, "alone", False)):
            raise MimoError(
                f"{_PLACE}: the experts of {name} cannot be captured: they are not computed in one "
                "kernel on one rank, for which they must be built with "
                "mimo_core.building.grouped_moe_builder, in bf16, without biases, of widths that "
                "8 divides, on a Hopper or Blackwell GPU, with ep and etp 1; leave "
                f"{word} out",
                code="megatron.cuda-graphs",
                layer=name,
                value=word,
            )


def manager_of(groups: ProcessGroupCollection) -> type[cuda_graphs.CudaGraphManager]:
    """Core's manager of a layer's graphs, with two things mended of megatron-core 0.19:

    - layers do not tell it their groups, and it asks the global parallel state, which is not
      initialized here;
    - after the first step it replays the graphs of training in evaluation too: with dropout, and
      for no other shape. Layers in evaluation run as without graphs here.
    """

    class LayerGraphs(_STOCK):  # type: ignore[misc]
        def __init__(self, config: TransformerConfig, *args: Any, **kwargs: Any) -> None:
            # The first one changes the current stream, and weights are still being written.
            torch.cuda.synchronize()
            super().__init__(config, *args, **{**kwargs, "pg_collection": groups})

        def __call__(self, layer: Any, args: Any, kwargs: Any, cache_key: Any = None) -> Any:
            if layer.training and torch.is_grad_enabled():
                return super().__call__(layer, args, kwargs, cache_key=cache_key)
            if self.func is not None:
                return self.func(*args, **kwargs)
            return super(MegatronModule, layer).__call__(*args, **kwargs)

    return LayerGraphs


def _capture_backward(runner: Any) -> None:
    """Core's, which lets no thread allocate meanwhile: batches are pinned by one of their own, and
    the capture would fail. Its capture of the forward minds the capturing thread alone."""
    stock = torch.cuda.graph
    torch.cuda.graph = partial(stock, capture_error_mode="thread_local")
    try:
        _BACKWARD(runner)
    finally:
        torch.cuda.graph = stock
