"""Layers of experts in one kernel, and core's own, on the same tokens."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

HIDDEN, WIDTH, EXPERTS = 16, 24, 4


class Linear(torch.nn.Module):
    """Stands for TransformerEngine's grouped layers, which need a GPU."""

    single_grouped_weight = False

    def __init__(self, number: int, size: int, width: int, *, config: Any, **_more: Any) -> None:
        super().__init__()
        self.num_gemms = number
        for expert in range(number):
            weight = torch.randn(width, size).to(config.params_dtype)
            self.register_parameter(f"weight{expert}", torch.nn.Parameter(weight))

    def forward(self, rows: torch.Tensor, counts: list[int]) -> tuple[torch.Tensor, None]:
        groups = enumerate(rows.split(counts))
        return torch.cat([rows @ getattr(self, f"weight{n}").t() for n, rows in groups]), None


def _config(grid: Any, activation: Any, *, chosen: int = 2, **fields: Any) -> Any:
    """Of a layer of experts in bf16, gated where the activation is SiLU, of which ``chosen`` get
    each token."""
    from mimo_core.contract import ModuleConfig, TrainingConfig
    from mimo_core.model.config import transformer_config

    train = TrainingConfig(
        iterations=1, micro_batch_size=1, global_batch_size=2, sequence_length=8, learning_rate=1.0
    )
    return transformer_config(
        ModuleConfig(name="language", plugin="any", grid=grid, train=train, precision="bf16"),
        num_layers=1,
        hidden_size=HIDDEN,
        num_attention_heads=1,
        add_bias_linear=False,
        activation_func=activation,
        gated_linear_unit=activation is F.silu,
        bias_activation_fusion=False,
        num_moe_experts=EXPERTS,
        moe_router_topk=chosen,
        moe_router_dtype="fp32",
        moe_ffn_hidden_size=WIDTH,
        moe_grouped_gemm=True,
        **fields,
    )


def _moves() -> list[bool]:
    """Have core's dispatcher hand collectives numbers as where there are GPUs; a list that tells of
    each that goes to the host whether there was one."""
    from megatron.core.transformer.moe import token_dispatcher

    told = []

    def move(tensor: Any, as_numpy: bool = False, **_more: Any) -> Any:
        told.append(tensor is not None)
        return tensor.numpy() if as_numpy and tensor is not None else tensor

    token_dispatcher.maybe_move_tensor_to_cpu = move
    return told


def compare(platform: Any) -> dict[str, Any]:
    """By where experts are and how they are activated: whether outputs and gradients are core's,
    and how often the host was told a number of tokens."""
    from megatron.core.activations import squared_relu
    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
    from megatron.core.transformer.moe.experts import GroupedMLPSubmodules, TEGroupedMLP
    from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules

    from mimo_core.contract import Grid
    from mimo_core.distributed.process_groups import build_topology
    from mimo_core.model.moe.grouped_experts import GroupedExperts, GroupedMoELayer

    told = _moves()
    found: dict[str, Any] = {}
    for place, grid in {"alone": Grid(dp=2), "spread": Grid(dp=2, ep=2)}.items():
        groups = build_topology({"language": grid}, {"language": 0}, platform.backend).groups
        for activation in (squared_relu, F.silu):
            config = _config(grid, activation)
            results = []
            for ours in (False, True):
                model_parallel_cuda_manual_seed(1, tp_rank=0, ep_rank=0, etp_rank=0)
                torch.manual_seed(groups["language"].ep.rank())
                experts = partial(
                    GroupedExperts if ours else TEGroupedMLP,
                    submodules=GroupedMLPSubmodules(Linear, Linear),
                )
                layer: Any = (GroupedMoELayer if ours else MoELayer)(
                    config,
                    submodules=MoESubmodules(experts=experts),
                    layer_number=1,
                    pg_collection=groups["language"],
                )
                torch.nn.init.constant_(layer.router.weight, 0)
                layer.router.weight.data.flatten()[:: HIDDEN + 1].fill_(1)
                tokens = torch.randn(8, 1, HIDDEN, generator=torch.Generator().manual_seed(7))
                tokens = tokens.bfloat16().requires_grad_()
                told.clear()
                output, _ = layer(tokens)
                output.float().square().sum().backward()
                named = {name: one.grad.clone() for name, one in layer.named_parameters()}
                results.append((output, tokens.grad, named, sum(told)))
                if ours:
                    together = _in_buffers(layer, config, groups["language"], tokens, named)
            core, mine = results
            name = f"{place}, {activation.__name__}"
            found[name] = {
                "output": torch.equal(core[0], mine[0]),
                "of tokens": torch.equal(core[1], mine[1]),
                "of weights": sorted(core[2]) == sorted(mine[2])
                and all(torch.equal(core[2][key], mine[2][key]) for key in core[2]),
                "told": [core[3] > 0, mine[3] > 0],
                "in buffers": together,
            }
    return found


def gather(platform: Any) -> dict[str, Any]:
    """Two ranks with tokens of their own: by how these choose experts, how far outputs and
    gradients of gathered tokens are from core's all-to-all, in parts of the largest number. And
    the dispatchers of layers that do not gather, and what core says of gathering by its own."""
    from megatron.core.activations import squared_relu
    from megatron.core.models.gpt.moe_module_specs import _build_shared_experts
    from megatron.core.tensor_parallel import (
        ColumnParallelLinear,
        RowParallelLinear,
        model_parallel_cuda_manual_seed,
    )
    from megatron.core.transformer import TransformerConfig
    from megatron.core.transformer.mlp import MLPSubmodules
    from megatron.core.transformer.moe.experts import GroupedMLPSubmodules
    from megatron.core.transformer.moe.moe_layer import MoESubmodules

    from mimo_core.contract import Grid
    from mimo_core.distributed.process_groups import build_topology
    from mimo_core.model.moe.grouped_experts import GroupedExperts, GroupedMoELayer

    _moves()
    spread, alone = Grid(dp=2, ep=2), Grid(dp=2)
    groups = {
        grid: build_topology({"language": grid}, {"language": 0}, platform.backend).groups
        for grid in (spread, alone)
    }
    rank = groups[spread]["language"].ep.rank()
    linears = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)

    def build(even_tokens: bool, grid: Any = spread, **fields: Any) -> Any:
        model_parallel_cuda_manual_seed(1, tp_rank=0, ep_rank=0, etp_rank=0)
        torch.manual_seed(rank)
        return GroupedMoELayer(
            _config(grid, squared_relu, **fields),
            submodules=MoESubmodules(
                experts=partial(GroupedExperts, submodules=GroupedMLPSubmodules(Linear, Linear)),
                shared_experts=partial(_build_shared_experts, submodules=linears),
            ),
            layer_number=1,
            pg_collection=groups[grid]["language"],
            even_tokens=even_tokens,
        )

    overlapped = {"moe_shared_expert_intermediate_size": 8, "moe_shared_expert_overlap": True}
    layers = {
        "packed": build(False),
        "one expert a token": build(True, chosen=1, moe_router_pre_softmax=True),
        "overlapped": build(True, **overlapped),
        "alone": build(True, alone),
    }
    found: dict[str, Any] = {
        "otherwise": {name: type(each.token_dispatcher).__name__ for name, each in layers.items()}
    }
    try:
        TransformerConfig(
            num_layers=1,
            hidden_size=HIDDEN,
            num_attention_heads=1,
            num_moe_experts=EXPERTS,
            moe_token_dispatcher_type="allgather",
            variable_seq_lengths=True,
        )
    except ValueError as error:
        found["core's own"] = str(error)
    # Every expert is chosen; or the two of the first rank alone, and the second's get nothing.
    for name, favoured in {"all": EXPERTS, "one rank's": 2}.items():
        results = []
        for even_tokens in (False, True):
            layer = build(even_tokens)
            likes = torch.randn(EXPERTS, HIDDEN, generator=torch.Generator().manual_seed(3))
            likes[favoured:] = torch.tensor([-1e3, *[0.0] * (HIDDEN - 1)])
            layer.router.weight.data.copy_(likes)
            tokens = torch.randn(8, 3, HIDDEN, generator=torch.Generator().manual_seed(7 + rank))
            tokens[..., 0] = tokens[..., 0].abs() + 1
            tokens = tokens.bfloat16().requires_grad_()
            output, _ = layer(tokens)
            output.float().square().sum().backward()
            named = {key: one.grad for key, one in layer.named_parameters()}
            results.append({"output": output, "of tokens": tokens.grad, **named})
        core, mine = results
        assert core.keys() == mine.keys()
        apart = [
            (core[key] - mine[key]).abs().max() / core[key].abs().max().clamp_min(1e-9)
            for key in core
        ]
        counts = layer.token_dispatcher._counts.tolist()
        found[name] = {"apart": max(apart).item(), "counts": counts}
    return found


def settings(platform: Any) -> dict[str, Any]:
    """By fields of the config: whether the output is core's, whether it was computed in one kernel,
    and the order of the weights."""
    from megatron.core.models.gpt.moe_module_specs import _build_shared_experts
    from megatron.core.tensor_parallel import (
        ColumnParallelLinear,
        RowParallelLinear,
        model_parallel_cuda_manual_seed,
    )
    from megatron.core.transformer.mlp import MLPSubmodules
    from megatron.core.transformer.moe.experts import GroupedMLPSubmodules, TEGroupedMLP
    from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules

    from mimo_core.contract import Grid
    from mimo_core.distributed.process_groups import build_topology
    from mimo_core.model.moe.grouped_experts import GroupedExperts, GroupedMoELayer

    groups = build_topology({"language": Grid()}, {"language": 0}, platform.backend).groups
    shared = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
    found: dict[str, Any] = {}
    kinds: dict[str, dict[str, Any]] = {
        "shared": {"moe_shared_expert_intermediate_size": WIDTH},
        "overlapped": {
            "moe_shared_expert_intermediate_size": WIDTH,
            "moe_shared_expert_overlap": True,
        },
        "interleaved": {"moe_mlp_glu_interleave_size": 4},
    }
    for name, fields in kinds.items():
        config = _config(Grid(), F.silu, **fields)
        outputs = []
        for ours in (False, True):
            model_parallel_cuda_manual_seed(1, tp_rank=0, ep_rank=0, etp_rank=0)
            grouped = GroupedExperts if ours else TEGroupedMLP
            layer: Any = (GroupedMoELayer if ours else MoELayer)(
                config,
                submodules=MoESubmodules(
                    experts=partial(grouped, submodules=GroupedMLPSubmodules(Linear, Linear)),
                    shared_experts=partial(_build_shared_experts, submodules=shared),
                ),
                layer_number=1,
                pg_collection=groups["language"],
            )
            torch.manual_seed(3)
            for _, parameter in sorted(layer.named_parameters()):
                torch.nn.init.normal_(parameter)
            tokens = torch.randn(8, 1, HIDDEN, generator=torch.Generator().manual_seed(7))
            outputs.append(layer(tokens.bfloat16().requires_grad_())[0])
        found[name] = {
            "equal": torch.equal(*outputs),
            "in one kernel": layer.experts.in_one_kernel,
            "order": [weight for weight, _ in layer.experts.linear_fc2.named_parameters()],
        }
    found["on CPUs"] = {"equal": _local_layers_are_one(groups["language"])}
    return found


def _local_layers_are_one(groups: Any) -> bool:
    """Whether a layer of local modules puts out the same where its dispatcher computes the shared
    expert."""
    from mimo_core.contract import Grid
    from mimo_core.model.moe.local_experts import local_moe_builder

    outputs = []
    for overlap in (False, True):
        fields = {"moe_shared_expert_intermediate_size": WIDTH}
        config = _config(Grid(), F.silu, **fields, moe_shared_expert_overlap=overlap)
        layer = local_moe_builder()(config, layer_number=1, pg_collection=groups)
        torch.manual_seed(3)
        for _, parameter in sorted(layer.named_parameters()):
            torch.nn.init.normal_(parameter)
        tokens = torch.randn(8, 1, HIDDEN, generator=torch.Generator().manual_seed(7))
        outputs.append(layer(tokens.bfloat16())[0])
    return torch.equal(*outputs)


def _in_buffers(layer: Any, config: Any, groups: Any, tokens: Any, alone: Any) -> list[bool]:
    """Wrapped as in a run: whether two microbatches add up to twice one's gradients, and experts'
    weights and gradients lie one after another."""
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig

    from mimo_core.model.moe.grouped_gemm import stacked

    for parameter in layer.parameters():
        parameter.grad = None
    ddp = DistributedDataParallelConfig(use_distributed_optimizer=True, grad_reduce_in_fp32=True)
    layer.config = config
    wrapped = DistributedDataParallel(config, ddp, layer, pg_collection=groups)
    for _ in range(2):
        output, _ = wrapped(tokens.detach().requires_grad_())
        output.float().square().sum().backward()
    first = layer.experts.linear_fc1
    weights = [getattr(first, f"weight{number}") for number in range(first.num_gemms)]
    shared = [stacked(weights), stacked([weight.main_grad for weight in weights])]
    return [
        all(torch.equal(one.main_grad, 2 * alone[name]) for name, one in layer.named_parameters()),
        shared[0].data_ptr() == weights[0].data_ptr(),
        shared[1].data_ptr() == weights[0].main_grad.data_ptr(),
    ]
