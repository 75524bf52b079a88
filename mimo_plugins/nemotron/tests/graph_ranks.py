"""A model with layers that are replayed as CUDA graphs against the same run kernel by kernel.

``python graph_ranks.py`` compares and times layers as large as Nemotron 3 Nano's on one GPU: with
graphs of Mamba layers and attention, then of experts too, and with core's experts.
"""

from __future__ import annotations

import gc
import json
import tempfile
import time
from collections.abc import Callable
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
GRAPHS = {"cuda_graph_impl": "local", "cuda_graph_modules": ["mamba", "attn"]}
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


class Steps:
    """Steps of one model over the same microbatches."""

    def __init__(
        self, platform: Any, options: dict[str, Any], length: int, microbatches: int, fields: Any
    ) -> None:
        self.platform = platform
        self.length = length
        self.model, vocabulary = _model(platform, options, length, fields)
        self.wrapped: Any = self.model.active("language")
        self.named = [(n, p) for n, p in self.wrapped.named_parameters() if p.requires_grad]
        generator = torch.Generator().manual_seed(3)
        shape = (2, microbatches, 1, length + 1)
        tokens = torch.randint(vocabulary, shape, generator=generator)
        self.tokens = tokens.to(platform.device)
        self.times: dict[str, list[float]] = {"host": [], "step": []}
        self.model.train()

    def step(self, which: int) -> tuple[dict[str, Tensor], float]:
        """Gradients by parameter, and the loss, of all microbatches of one of two batches."""
        self.wrapped.zero_grad_buffer()
        self.platform.synchronize()
        begun, losses = time.perf_counter(), []
        for ids in self.tokens[which]:
            loss = self._loss(ids)
            loss.backward()
            losses.append(loss.detach())
        queued = time.perf_counter()
        self.platform.synchronize()
        self.times["host"].append(queued - begun)
        self.times["step"].append(time.perf_counter() - begun)
        return self.gradients(), torch.stack(losses).mean().item()

    def gradients(self) -> dict[str, Tensor]:
        return {name: parameter.main_grad.clone() for name, parameter in self.named}

    def evaluated(self, positions: int) -> float:
        self.model.eval()
        with torch.no_grad():
            value = self._loss(self.tokens[0][0][:, : positions + 1]).item()
        self.model.train()
        return value

    def _loss(self, ids: Tensor) -> Tensor:
        inputs = {
            "input_ids": ids[:, :-1],
            "position_ids": torch.arange(ids.shape[1] - 1, device=ids.device)[None],
        }
        # Another number of padded positions in each microbatch: an input of graphs.
        places = inputs["position_ids"].expand_as(inputs["input_ids"])
        padding = places >= places.shape[1] - ids[:, :1] % 8
        output = self.model.logits(inputs, padding=padding)
        losses = self.model.losses(output, ids[:, 1:].contiguous())
        return losses.float().mean()  # type: ignore[no-any-return]


def compare(
    platform: Any,
    options: dict[str, Any],
    length: int,
    kinds: dict[str, dict[str, Any]],
    microbatches: int = 8,
    tell: Callable[[str, Any], None] = lambda _name, _told: None,
) -> dict[str, Any]:
    """Gradients and times of a model, and of the same with further fields of its config.

    Args:
        options: Of the model.
        length: Positions of a sequence.
        kinds: By any name, fields of ``modules.language.megatron``.
        tell: Takes what was found of a kind as soon as it is known.

    Returns:
        By kind: ``worst``: by parameter, how far its gradient with the fields is from that without,
        and how far two without are from each other, as shares of its norm, for the parameters that
        are furthest; ``touched``: largest change of gradients by the capture of graphs; ``losses``:
        without and with; ``evaluated``: the loss in evaluation, without and with, and of half a
        sequence; ``plain`` and ``changed``: seconds of each step until it was queued (``host``),
        and done (``step``), without and with.
    """
    from megatron.core.transformer import cuda_graphs

    plain = Steps(platform, options, length, microbatches, {})
    plain.step(0)
    (first, loss), (again, _), (other, _) = plain.step(0), plain.step(0), plain.step(1)
    noise = {name: _apart(again[name], first[name]) for name in first}
    # By name: core's experts are in another order.
    weights = {name: parameter.detach().clone() for name, parameter in plain.named}
    evaluated, times = plain.evaluated(length), plain.times
    del plain, again
    found = {}
    for kind, fields in kinds.items():
        gc.collect()
        changed = Steps(platform, options, length, microbatches, fields)
        assert weights.keys() == {name for name, _ in changed.named}
        for name, parameter in changed.named:
            parameter.detach().copy_(weights[name])
        changed.step(0)
        before, _ = changed.step(1)
        cuda_graphs.create_cudagraphs()
        captured = cuda_graphs._CudagraphGlobalRecord.cudagraph_created
        assert captured == ("cuda_graph_impl" in fields)
        after = changed.gradients()
        touched = max((after[name] - before[name]).abs().max().item() for name in after)
        del before, after
        changed.step(1)
        (mine, my_loss), (my_other, _) = changed.step(0), changed.step(1)
        apart = {
            name: [max(_apart(mine[name], first[name]), _apart(my_other[name], other[name])), one]
            for name, one in noise.items()
        }
        del mine, my_other
        my_evaluated = [changed.evaluated(length), changed.evaluated(length // 2)]
        changed.step(0)
        worst = sorted(apart, key=lambda name: apart[name][0] - 3 * apart[name][1])[-8:]
        found[kind] = {
            "worst": {name: apart[name] for name in worst},
            "touched": touched,
            "losses": [loss, my_loss],
            "evaluated": [evaluated, *my_evaluated],
            "plain": times,
            "changed": changed.times,
        }
        tell(kind, found[kind])
        del changed
        cuda_graphs.delete_cuda_graphs()
    return found


def on_cpus(platform: Any) -> list[Any]:
    """What is told on CPUs of graphs and fused kernels that a recipe asks for, how many layers have
    graphs, and which of the fields the model still has."""
    from types import SimpleNamespace

    from mimo_core.model.platform_config import notes

    options = {"pattern": "*-E", "hidden_size": 32, "attention_heads": 4}
    fused = ("apply_rope_fusion", "moe_permute_fusion", "moe_router_fusion")
    loss = {"cross_entropy_fusion_impl": "te", "cross_entropy_loss_fusion": True}
    fields = {**GRAPHS, "cuda_graph_modules": ["attn", "moe"], **dict.fromkeys(fused, True), **loss}
    model, _ = _model(platform, options, 8, fields)
    language: Any = SimpleNamespace(modules={"language": SimpleNamespace(megatron=fields)})
    managers = [hasattr(layer, "cudagraph_manager") for layer in model.modules()]
    kept = [name for name in (*fused, "cross_entropy_loss_fusion") if getattr(model.config, name)]
    return [*notes(language, platform), sum(managers), kept]


def captures_nothing(platform: Any, patterns: list[str]) -> list[list[str]]:
    """Of models with these layers, the parts that would capture nothing; each layer has a manager
    of graphs, as core gives one to those that are captured."""
    from types import SimpleNamespace

    from megatron.core.transformer.enums import CudaGraphModule
    from megatron.core.transformer.module import GraphableMegatronModule

    from mimo_core.model.cuda_graphs.layers import check_parts

    told = []
    for pattern in patterns:
        options = {"pattern": pattern, "hidden_size": 32, "attention_heads": 4}
        model, _ = _model(platform, options, 8, {})
        for layer in model.modules():
            if isinstance(layer, GraphableMegatronModule):
                layer.cudagraph_manager = torch.nn.Identity()
        told.append([])
        for part in ("mamba", "attn", "moe"):
            config: Any = SimpleNamespace(
                cuda_graph_impl="local",
                cuda_graph_modules=[CudaGraphModule[part]],
                moe_aux_loss_coeff=0.0,
                moe_z_loss_coeff=None,
            )
            try:
                check_parts(config, model.active("language"))
            except ValueError as error:
                if f"{part} captures nothing" in str(error):
                    told[-1].append(part)
    return told


def in_evaluation(platform: Any) -> list[str]:
    """Who runs a layer that has a manager of graphs, in training and in evaluation."""
    from megatron.core.transformer import cuda_graphs

    from mimo_core.model.cuda_graphs.layers import manager_of

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


def _model(platform: Any, options: dict[str, Any], length: int, fields: Any) -> tuple[Any, int]:
    from megatron.core.distributed import DistributedDataParallelConfig

    from mimo_core.distributed.process_groups import build_topology
    from mimo_core.model.builder import BuildConfig, Builder
    from mimo_core.planning.plan import make_plan

    here = "modules.language"
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder, "recipe.yaml")
        recipe.write_text(RECIPE)
        overrides = [
            f"{here}.options={json.dumps(options)}",
            f"{here}.megatron={json.dumps(fields)}",
            f"train.sequence_length={length}",
        ]
        plan = make_plan(recipe, overrides, world_size=1)
    topology = build_topology(plan.layout.grids, plan.layout.rank_offsets, platform.backend)
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
    parts = {"mamba and attention": ["mamba", "attn"], "all": ["mamba", "attn", "moe"]}
    graphs: dict[str, dict[str, Any]] = {
        # What one kernel for all experts does not do.
        "core's experts": {"recompute_granularity": "selective", "recompute_modules": ["moe_act"]},
    }
    graphs |= {
        name: {"cuda_graph_impl": "local", "cuda_graph_modules": list_of}
        for name, list_of in parts.items()
    }
    compare(
        platform,
        LARGE,
        4096,
        graphs,
        tell=lambda kind, told: print(kind, json.dumps(told, indent=1), flush=True),
    )
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
