"""What the tests run on ranks; only here megatron is imported."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from megatron.core.transformer.spec_utils import build_module
from mimo_plugin_nemotron import model, plugin
from mimo_plugin_nemotron.model import architecture
from nemotron_modules import BATCH, SEQUENCE, VOCABULARY, language_module
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mimo_core.contract import Grid
from mimo_core.distributed.process_groups import build_topology
from mimo_core.testing.weights import unnamed


class Built:
    """A model on a grid that begins at world rank 0."""

    def __init__(
        self, platform: Any, grid: Grid, megatron: dict[str, Any] | None = None, **options: Any
    ) -> None:
        self.module = language_module(grid, megatron, **options)
        topology = build_topology({"language": grid}, {"language": 0}, platform.backend)
        self.groups: ProcessGroupCollection = topology.groups["language"]
        if parallel_state._GLOBAL_MEMORY_BUFFER is None:
            parallel_state._set_global_memory_buffer()
        self.reseed()
        spec = plugin.build_submodule(self.module, self.groups, platform)
        self.model: nn.Module = build_module(spec)

    def reseed(self) -> None:
        model_parallel_cuda_manual_seed(
            7,
            tp_rank=self.groups.tp.rank(),
            ep_rank=self.groups.ep.rank(),
            etp_rank=self.groups.expt_tp.rank(),
            force_reset_rng=True,
        )

    def take_weights(self, whole: Built) -> None:
        """This rank's parts of the whole model's parameters."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(_shard(self, name, parameter, _whole_parameter(whole, self, name)))

    def local_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def losses(self, ids: Tensor, labels: Tensor, packed: Any = None) -> Tensor:
        """``[B, S]``."""
        result: Tensor = self.model(
            ids, positions(ids), None, labels=labels, packed_seq_params=packed
        )
        return result


def positions(ids: Tensor) -> Tensor:
    return torch.arange(ids.shape[1]).expand_as(ids)


def tokens(seed: int = 0) -> Tensor:
    """``[B, S]``, the same on every rank."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCABULARY, (BATCH, SEQUENCE), generator=generator)


def one_rank(platform: Any, models: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """All that one rank can tell, in one launch."""
    # First: the kernels must reach a mixer that was imported before the plugin is asked.
    return {
        "kernels": _mixer_kernels(platform),
        "stock": _stock_limits(platform),
        "models": {name: _facts(platform, options) for name, options in models.items()},
        "checkpoint keys": _checkpoint_keys(platform),
        "megatron flops": _megatron_flops("M*-E", [5, 7]),
        "architecture": sorted(architecture(language_module(), platform)),
        "fused routers": [_fused_router({}), _fused_router({"moe_router_dtype": "fp64"})],
    }


def _facts(platform: Any, options: dict[str, Any]) -> dict[str, Any]:
    built = Built(platform, Grid(), **options)
    ids = tokens()
    with FlopCounterMode(display=False) as counter:
        losses = built.losses(ids, ids.roll(-1, 1))
    losses.sum().backward()
    gradients = {name: p.grad for name, p in built.model.named_parameters()}
    changed = ids.clone()
    changed[:, SEQUENCE // 2] = (changed[:, SEQUENCE // 2] + 1) % VOCABULARY
    built.model.eval()
    with torch.no_grad():
        before, after = (built.model(t, positions(t), None) for t in (ids, changed))
    difference = (before - after).abs().amax(dim=(0, 2))
    return {
        "losses": list(losses.shape),
        "flops": counter.get_total_flops(),
        "parameters": built.local_parameters(),
        "described": plugin.describe_module(built.module).num_parameters,
        "unnamed": unnamed(
            built.module,
            plugin.param_mappings(built.module),
            {"language": built.model},
            built.groups,
        ),
        "without gradient": [
            name
            for name, g in gradients.items()
            if g is None or not g.isfinite().all() or not g.any()
        ],
        "earlier": difference[: SEQUENCE // 2].max().item(),
        "later": difference[SEQUENCE // 2 + 1 :].min().item(),
        "routed": [
            module.local_tokens_per_expert.sum().item()
            for module in built.model.modules()
            if getattr(module, "local_tokens_per_expert", None) is not None
        ],
    }


def _checkpoint_keys(platform: Any) -> dict[str, list[str]]:
    """Keys of the norms in a checkpoint, and parameters that it lacks."""
    built = Built(platform, Grid())
    saved = built.model.sharded_state_dict(metadata={"dp_cp_group": built.groups.dp_cp})
    return {
        "norms": sorted(item.key for name, item in saved.items() if "norm" in name),
        "missing": [name for name, _ in built.model.named_parameters() if name not in saved],
    }


def _megatron_flops(pattern: str, lengths: list[int]) -> float:
    """Of a forward and backward, by megatron's own throughput figure."""
    from megatron.training.training import num_floating_point_operations

    options = language_module(pattern=pattern).options
    said = {
        "hybrid_layer_pattern": pattern,
        "hidden_size": options.hidden_size,
        "num_attention_heads": options.attention_heads,
        "group_query_attention": True,
        "num_query_groups": options.kv_head_count,
        "kv_channels": options.attention_head_dim,
        "ffn_hidden_size": options.mlp_width,
        "mamba_state_dim": options.mamba_state,
        "mamba_head_dim": options.mamba_head_dim,
        "mamba_num_groups": options.mamba_groups,
        "mamba_num_heads": options.mamba_head_count,
        "moe_ffn_hidden_size": options.expert_width,
        "moe_shared_expert_intermediate_size": options.shared_expert_ffn_hidden_size,
        "moe_router_topk": options.experts_per_token,
        "padded_vocab_size": options.embedding_rows(VOCABULARY),
        "swiglu": False,
    }
    args = defaultdict(lambda: None, said)
    squares = sum(length**2 for length in lengths)
    return float(
        num_floating_point_operations(
            _Attributes(args),
            len(lengths),
            seqlen_squared_sum_in_batch=squares,
            total_real_tokens_in_batch=sum(lengths),
        )
    )


class _Attributes:
    """A mapping's values as attributes."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __getattr__(self, name: str) -> Any:
        return self._values[name]


def _mixer_kernels(platform: Any) -> dict[str, Any]:
    from megatron.core.ssm import mamba_mixer

    before = mamba_mixer.HAVE_MAMBA_SSM
    mixers = [Built(platform, Grid(), pattern="M").model.decoder.layers[0].mixer for _ in range(2)]
    return {
        "before": before,
        "after": mamba_mixer.HAVE_MAMBA_SSM,
        "same": type(mixers[0]) is type(mixers[1]),
    }


def _fused_router(megatron: dict[str, Any]) -> bool:
    """Where TransformerEngine is, which a real config would look for."""
    platform: Any = SimpleNamespace(transformer_engine=True)
    given: dict[str, Any] = {}

    def config(_module: Any, **fields: Any) -> Any:
        given.update(fields)
        return SimpleNamespace(recompute_modules=())

    with mock.patch.object(model, "transformer_config", config):
        model.hybrid_config(language_module(megatron=megatron), platform)
    fused: bool = given["moe_router_fusion"]
    return fused


def _stock_limits(platform: Any) -> dict[str, str]:
    """What megatron's own classes do where ours stand in for them."""
    from megatron.core.models.hybrid.hybrid_block import HybridStack
    from megatron.core.transformer.moe.moe_utils import maybe_move_tensor_to_cpu
    from megatron.core.transformer.torch_norm import WrappedTorchNorm

    built = Built(platform, Grid(), pattern="-")
    config = built.model.config
    submodules = built.model.hybrid_stack_spec.submodules

    def stack() -> nn.Module:
        layers, groups = ["-"], built.groups
        return HybridStack(config, submodules, layer_type_list=layers, pg_collection=groups)

    def norm() -> nn.Module:
        split = copy.copy(config)
        split.sequence_parallel = True
        return WrappedTorchNorm(split, 8)

    return {
        "final norm": error_of(stack),
        "norm": error_of(norm),
        "split sizes": type(maybe_move_tensor_to_cpu(torch.ones(2), as_numpy=True)).__name__,
    }


def error_of(call: Callable[[], Any]) -> str:
    try:
        call()
    except Exception as error:
        return repr(error)
    return "none"


def two_ranks(platform: Any, grids: list[dict[str, int]]) -> dict[str, Any]:
    """All that two ranks can tell, in one launch."""
    stages = _two_stages(platform)
    stages["parameters"] = Built(platform, Grid(pp=2)).local_parameters()
    return {"grids": _parallel_as_one(platform, grids), "stages": stages}


def _parallel_as_one(platform: Any, grids: list[dict[str, int]]) -> list[dict[str, float]]:
    """Each grid over all ranks against the whole model: largest differences."""
    world = dist.get_world_size()
    whole = Built(platform, Grid(dp=world))
    ids = tokens()
    labels = ids.roll(-1, 1)
    whole_losses = whole.losses(ids, labels)
    whole_losses.sum().backward()
    results = []
    for sizes in grids:
        part = Built(platform, Grid(**sizes))
        part.take_weights(whole)
        results.append(_compare(whole, whole_losses, part, ids, labels))
    return results


def _compare(
    whole: Built, whole_losses: Tensor, part: Built, ids: Tensor, labels: Tensor
) -> dict[str, float]:
    # A data-parallel rank takes rows of its own; gradients are summed, as over tokens.
    replicas, replica = part.groups.dp.size(), part.groups.dp.rank()
    rows = slice(replica * BATCH // replicas, (replica + 1) * BATCH // replicas)
    losses = part.losses(ids[rows], labels[rows])
    losses.sum().backward()
    return {
        "losses": (losses - whole_losses[rows]).abs().max().item(),
        "gradients": gradient_error(whole, part),
        "sequence_parallel": part.model.config.sequence_parallel,
        "parameters": part.local_parameters(),
    }


def gradient_error(whole: Built, part: Built) -> float:
    """Largest difference of a gradient, summed over the part's ranks, from the whole model's,
    relative to that gradient's largest entry."""
    worst = 0.0
    for name, parameter in part.model.named_parameters():
        gradient = parameter.grad
        assert gradient is not None
        if getattr(parameter, "sequence_parallel", False):
            dist.all_reduce(gradient, group=part.groups.tp)
        dense = getattr(parameter, "allreduce", True)
        group = part.groups.dp_cp if dense else part.groups.expt_dp
        dist.all_reduce(gradient, group=group)
        reference = _whole_parameter(whole, part, name).grad
        assert reference is not None
        expected = _shard(part, name, parameter, reference)
        worst = max(worst, ((gradient - expected).abs().max() / expected.abs().max()).item())
    return worst


def _whole_parameter(whole: Built, part: Built, name: str) -> nn.Parameter:
    """The whole model's parameter of which ``name`` is a part: experts are numbered over ep."""
    words = name.split(".")
    if "local_experts" in words:
        place = words.index("local_experts") + 1
        count = part.module.options.experts // part.groups.ep.size()
        words[place] = str(part.groups.ep.rank() * count + int(words[place]))
    return whole.model.get_parameter(".".join(words))


def _shard(part: Built, name: str, parameter: nn.Parameter, full: Tensor) -> Tensor:
    """This rank's part of ``full``, by the attributes that megatron leaves on its parameter."""
    if parameter.shape == full.shape:
        return full
    group = part.groups.expt_tp if "local_experts" in name else part.groups.tp
    dim: int = parameter.partition_dim  # type: ignore[assignment]
    sizes = getattr(parameter, "partition_sizes", None) or [parameter.shape[dim]]
    blocks = full.split([size * group.size() for size in sizes], dim=dim)
    return torch.cat([block.chunk(group.size(), dim)[group.rank()] for block in blocks], dim=dim)


def pipelined(platform: Any, whole: Built, **options: Any) -> Built:
    """This rank's stage of the whole model on pp 2, with the whole model's parameters."""
    part = Built(platform, Grid(pp=2), **options)
    first = part.groups.pp.rank() * len(part.model.decoder.layers)
    with torch.no_grad():
        for name, parameter in part.model.named_parameters():
            words = name.split(".")
            if words[:2] == ["decoder", "layers"]:
                words[2] = str(int(words[2]) + first)
            if options.get("tie_embeddings") and name == "output_layer.weight":
                words = ["embedding", "word_embeddings", "weight"]
            parameter.copy_(whole.model.get_parameter(".".join(words)))
    return part


def _two_stages(platform: Any) -> dict[str, float]:
    """The model on pp 2, its stages joined by hand, against the same on one rank."""
    whole = Built(platform, Grid(dp=2), tie_embeddings=True)
    part = pipelined(platform, whole, tie_embeddings=True)
    layers = len(part.model.decoder.layers)
    ids = tokens()
    labels = ids.roll(-1, 1)
    expected = whole.losses(ids, labels)
    hidden = torch.empty(SEQUENCE, BATCH, part.module.options.hidden_size)
    if part.groups.pp.rank() == 0:
        hidden = part.model(ids, positions(ids), None).detach()
    dist.broadcast(hidden, 0)
    if part.groups.pp.rank() == 0:
        return {"layers": layers, "losses": 0.0}
    part.model.set_input_tensor(hidden)
    losses = part.losses(ids, labels)
    return {"layers": layers, "losses": (losses - expected).abs().max().item()}
