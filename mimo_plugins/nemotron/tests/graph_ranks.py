"""Layers that are replayed as CUDA graphs against the same layers run one kernel after another.

``python graph_ranks.py [PART …]`` compares and times layers as large as Nemotron 3 Nano's on one
GPU; parts are those of ``cuda_graph_modules``, by default mamba and attn.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

RECIPE = """
modules: {language: {plugin: nemotron}}
data: {plugin: mock, options: {images: {per_sample: 0}, text: {characters: 4}}}
train: {iterations: 1, micro_batch_size: 1, global_batch_size: 8, precision: bf16,
        learning_rate: 1.0e-4}
"""
LARGE: dict[str, Any] = {
    "pattern": "MEMEM*ME",
    "hidden_size": 2688,
    "attention_heads": 32,
    "kv_heads": 2,
    "head_dim": 128,
    "mamba_heads": 64,
    "mamba_head_dim": 64,
    "mamba_state": 128,
    "mamba_groups": 8,
    "experts": 16,
    "experts_per_token": 6,
    "expert_ffn_hidden_size": 1856,
    "shared_expert_ffn_hidden_size": 3712,
    "router_score": "sigmoid",
    "router_bias": True,
    "routed_scaling": 2.5,
    "vocabulary_size": 131072,
}


def compare(
    platform: Any, options: dict[str, Any], length: int, parts: Sequence[str], microbatches: int = 8
) -> dict[str, Any]:
    """Gradients and times of steps before and after the capture.

    Args:
        options: Of the model.
        length: Positions of a sequence.
        parts: What is captured; nothing, where there are none.

    Returns:
        ``worst``: by parameter, how far a replayed gradient is from an eager one, and how far two
        eager ones are from each other, as shares of its norm, for the parameters that are furthest;
        ``touched``: largest change of gradients by the capture; ``losses``: eager and replayed;
        ``evaluated``: the loss in evaluation before the capture and after it, and of half a
        sequence after it; ``host`` and ``step``: seconds until a step was queued, and done.
    """
    from megatron.core.transformer import cuda_graphs

    model, vocabulary = _model(platform, options, length, parts)
    wrapped: Any = model.active("language")
    named = [(n, p) for n, p in wrapped.named_parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(3)
    shape = (2, microbatches, 1, length + 1)
    tokens = torch.randint(vocabulary, shape, generator=generator).to(platform.device)
    times: dict[str, list[float]] = {}

    def loss(ids: Tensor) -> Tensor:
        inputs = {
            "input_ids": ids[:, :-1],
            "position_ids": torch.arange(ids.shape[1] - 1, device=ids.device)[None],
        }
        return model.losses(model.logits(inputs), ids[:, 1:].contiguous()).float().mean()

    def step(which: int) -> tuple[dict[str, Tensor], float]:
        wrapped.zero_grad_buffer()
        platform.synchronize()
        begun, losses = time.perf_counter(), []
        for ids in tokens[which]:
            one = loss(ids)
            one.backward()
            losses.append(one.detach())
        queued = time.perf_counter()
        platform.synchronize()
        times.setdefault("host", []).append(queued - begun)
        times.setdefault("step", []).append(time.perf_counter() - begun)
        return {n: p.main_grad.clone() for n, p in named}, torch.stack(losses).mean().item()

    def evaluated(positions: int) -> float:
        model.eval()
        with torch.no_grad():
            value = loss(tokens[0][0][:, : positions + 1]).item()
        model.train()
        return value

    model.train()
    before = evaluated(length)
    step(0)
    (first, eager), (again, _), (other, _) = step(0), step(0), step(1)
    cuda_graphs.create_cudagraphs()
    assert cuda_graphs._CudagraphGlobalRecord.cudagraph_created == bool(parts)
    touched = max((p.main_grad - other[n]).abs().max().item() for n, p in named)
    step(1)
    (replayed, replayed_loss), (replayed_other, _) = step(0), step(1)
    after = [evaluated(length), evaluated(length // 2)]
    step(0)
    apart = {
        name: [
            max(_apart(replayed[name], first[name]), _apart(replayed_other[name], other[name])),
            _apart(again[name], first[name]),
        ]
        for name in first
    }
    worst = sorted(apart, key=lambda name: apart[name][0] - 3 * apart[name][1])[-12:]
    return {
        "worst": {name: apart[name] for name in worst},
        "touched": touched,
        "losses": [eager, replayed_loss],
        "evaluated": [before, *after],
        "memory": torch.cuda.max_memory_allocated() / 2**30 if platform.name == "cuda" else None,
        **times,
    }


def refused(platform: Any) -> str:
    """What a rank without a GPU says to graphs."""
    try:
        _model(platform, {"pattern": "*-", "hidden_size": 32, "attention_heads": 4}, 8, ["attn"])
    except ValueError as error:
        return str(error)
    return "nothing"


def in_evaluation(platform: Any) -> list[str]:
    """Who runs a layer that has a manager of graphs, in training and in evaluation."""
    from megatron.core.transformer import cuda_graphs

    from mimo_core.model.layer_graphs import manager_of

    called = []

    class Layer(torch.nn.Module):
        def forward(self) -> None:
            called.append("layer")

    cuda_graphs.CudaGraphManager.__call__ = lambda *_, **__: called.append("graph")  # type: ignore[method-assign]
    kind: Any = manager_of(None)  # type: ignore[arg-type]
    manager, layer = kind.__new__(kind), Layer()
    torch.nn.Module.__init__(manager)
    manager.func = layer.forward
    call: Callable[[], Any] = lambda: manager(layer, (), {})  # noqa: E731
    call()
    layer.eval()
    call()
    layer.train()
    with torch.no_grad():
        call()
    return called


def _model(
    platform: Any, options: dict[str, Any], length: int, parts: Sequence[str]
) -> tuple[Any, int]:
    from megatron.core.distributed import DistributedDataParallelConfig

    from mimo_core.model.builder import BuildConfig, Builder
    from mimo_core.plan import make_plan
    from mimo_core.topology import build_topology

    here = "modules.language"
    graphs = {"cuda_graph_impl": "local", "cuda_graph_modules": list(parts)} if parts else {}
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder, "recipe.yaml")
        recipe.write_text(RECIPE)
        overrides = [
            f"{here}.options={json.dumps(options)}",
            f"{here}.megatron={json.dumps(graphs)}",
            f"train.sequence_length={length}",
        ]
        plan = make_plan(recipe, overrides, world_size=1)
    topology = build_topology(plan.layout.grids, plan.layout.first_ranks, platform.backend)
    config = BuildConfig(
        host=plan.host, graph=plan.graph, topology=topology, platform=platform, seed=1234
    )
    ddp = DistributedDataParallelConfig(use_distributed_optimizer=True, grad_reduce_in_fp32=True)
    (model,) = Builder(config).build_distributed_models(topology.collection, ddp_config=ddp)
    return model, plan.graph.tokenizer.size


def _apart(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm().clamp(min=1e-12)).item()


def main() -> None:
    """On one GPU of this machine."""
    from mimo_core import platforms

    platform = platforms.select(0)
    store = dist.HashStore()
    dist.init_process_group(platform.backend, store=store, rank=0, world_size=1)
    large = platform.name == "cuda"
    options = (
        LARGE
        if large
        else {
            **LARGE,
            "hidden_size": 64,
            "head_dim": 8,
            "mamba_head_dim": 8,
            "mamba_state": 8,
            "expert_ffn_hidden_size": 16,
            "shared_expert_ffn_hidden_size": 32,
            "vocabulary_size": 512,
        }
    )
    parts = sys.argv[1:] or ["mamba", "attn"]
    told = compare(platform, options, 4096 if large else 32, parts if large else [])
    print(json.dumps(told, indent=1))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
