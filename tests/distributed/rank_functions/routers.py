"""Routers on four ranks against the formulas, and whole models whose padding changes."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

EXPERTS, TOPK, HIDDEN = 5, 2, 6
MICROBATCHES, SAMPLES, LENGTH = 3, 2, 8
LENGTHS = (8, 3, 5, 1, 6, 7)
"""Of the samples, one after another; a cycle that the microbatches of all ranks run through."""
LEARNED = (7, 2)
"""Tokens that each of two data-parallel ranks learns in the step."""
COEFFICIENT = 0.3

LAYOUTS = {
    "dp 2 (twice)": {"dp": 2},
    "tp 2, dp 2": {"tp": 2, "dp": 2},
    "cp 2, dp 2": {"cp": 2, "dp": 2},
    "tp 2, cp 2": {"tp": 2, "cp": 2},
}
LOSSES: dict[str, dict[str, Any]] = {
    "aux_loss": {"moe_router_load_balancing_type": "aux_loss", "moe_aux_loss_coeff": COEFFICIENT},
    "seq_aux_loss": {
        "moe_router_load_balancing_type": "seq_aux_loss",
        "moe_aux_loss_coeff": COEFFICIENT,
    },
    "z": {"moe_router_load_balancing_type": "none", "moe_z_loss_coeff": COEFFICIENT},
    "recomputed": {
        "moe_router_load_balancing_type": "aux_loss",
        "moe_aux_loss_coeff": COEFFICIENT,
    },
}


def _config(grid: Any, **fields: Any) -> Any:
    from mimo_core.contract import ModuleConfig, TrainingConfig
    from mimo_core.model.config import transformer_config

    train = TrainingConfig(
        iterations=1, micro_batch_size=2, global_batch_size=12, sequence_length=8, learning_rate=1.0
    )
    return transformer_config(
        ModuleConfig(name="language", plugin="any", grid=grid, train=train, precision="fp32"),
        sequence_parallel=True,
        num_layers=1,
        hidden_size=HIDDEN,
        num_attention_heads=2,
        add_bias_linear=False,
        num_moe_experts=EXPERTS,
        moe_router_topk=TOPK,
        moe_router_dtype="fp32",
        moe_ffn_hidden_size=4,
        moe_router_score_function="sigmoid",
        moe_router_enable_expert_bias=True,
        **fields,
    )


class Layer(nn.Module):
    """A router where a model has it."""

    def __init__(self, router: nn.Module) -> None:
        super().__init__()
        self.router = router

    def forward(self, hidden: Tensor, padding_mask: Tensor | None = None) -> Any:
        assert padding_mask is not None
        return self.router(hidden, padding_mask.t())


def _layer(grid: Any, groups: Any, **fields: Any) -> tuple[Layer, Any]:
    from megatron.core.transformer.moe.router import TopKRouter

    from mimo_core.model.moe.routers import Routers

    config = _config(grid, **fields)
    layer = Layer(TopKRouter(config=config, pg_collection=groups))
    with torch.no_grad():
        layer.router.weight.copy_(_random(11, EXPERTS, HIDDEN))  # type: ignore[union-attr, operator]
    return layer, Routers(layer, config, groups, torch.device("cpu"))


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _microbatch(number: int, dp_rank: int) -> tuple[Tensor, Tensor]:
    """Hidden states ``[S, B, H]`` of whole rows, and where padding is, ``[B, S]``."""
    hidden = _random(100 * number + dp_rank, LENGTH, SAMPLES, HIDDEN)
    first = SAMPLES * (2 * number + dp_rank)
    lengths = torch.tensor([LENGTHS[(first + n) % len(LENGTHS)] for n in range(SAMPLES)])
    return hidden, torch.arange(LENGTH) >= lengths[:, None]


def formula(kind: str, weight: Tensor, dp: int) -> Tensor:
    """The loss of a step, in plain torch: a mean over microbatches and data-parallel ranks."""
    found = []
    for number in range(MICROBATCHES):
        for rank in range(dp):
            hidden, padding = _microbatch(number, rank)
            samples = [hidden[~padding[n], n].double() for n in range(SAMPLES)]
            if kind != "seq_aux_loss":
                samples = [torch.cat(samples)]
            losses = []
            for tokens in samples:
                logits = tokens @ weight.t()
                if kind == "z":
                    losses.append(logits.logsumexp(-1).square().mean())
                    continue
                scores = logits.sigmoid()
                scores = scores / scores.sum(-1, keepdim=True)
                counts = torch.bincount(scores.topk(TOPK).indices.flatten(), minlength=EXPERTS)
                parts = counts / (TOPK * len(tokens))
                losses.append(EXPERTS * (parts * scores.mean(0)).sum())
            found.append(torch.stack(losses).mean())
    return COEFFICIENT * torch.stack(found).mean()


def losses(platform: Any) -> dict[str, dict[str, float]]:
    """By layout and loss: how far the router's gradient is from the formula's, relative; and
    whether tokens were counted as they are."""
    from megatron.core import tensor_parallel

    from mimo_core.contract import Grid
    from mimo_core.distributed.context_parallel import local_positions
    from mimo_core.distributed.process_groups import build_topology

    tensor_parallel.model_parallel_cuda_manual_seed(1, tp_rank=0, ep_rank=0, etp_rank=0)
    found: dict[str, dict[str, float]] = {}
    for name, sizes in LAYOUTS.items():
        grid = Grid(**sizes)
        first = grid.size if dist.get_rank() >= grid.size else 0
        topology = build_topology(
            {"language": grid, "other": grid} if grid.size < 4 else {"language": grid},
            {"language": 0, "other": grid.size} if grid.size < 4 else {"language": 0},
            platform.backend,
        )
        groups = topology.groups["other" if first else "language"]
        for kind, fields in LOSSES.items():
            layer, routers = _layer(grid, groups, **fields)
            routers.begin_step(LEARNED[groups.dp.rank()], MICROBATCHES)
            for number in range(MICROBATCHES):
                hidden, padding = _microbatch(number, groups.dp.rank())
                if grid.cp > 1:
                    own = local_positions([LENGTH], grid.cp, groups.cp.rank())
                    hidden, padding = hidden[own], padding[:, own]
                hidden = hidden.chunk(grid.tp)[groups.tp.rank()]
                routers.set_padding(padding.chunk(grid.tp, dim=1)[groups.tp.rank()])
                hidden = hidden.clone().requires_grad_()
                if kind == "recomputed":
                    mask = routers._padding
                    output = tensor_parallel.checkpoint(
                        lambda *given, layer=layer: layer.router(*given)[0], False, hidden, mask.t()
                    )
                else:
                    output, _ = layer(hidden)
                # The next microbatch is here before this one's backward begins.
                routers.set_padding(torch.ones_like(padding))
                output.backward(torch.zeros_like(output))
            gradient = layer.router.weight.grad
            counts = layer.router.local_tokens_per_expert.clone()
            for tensor in (gradient, counts):
                for group in (groups.tp, groups.dp_cp):
                    dist.all_reduce(tensor, group=group)
            weight = layer.router.weight.detach().double().requires_grad_()
            formula("aux_loss" if kind == "recomputed" else kind, weight, grid.dp).backward()
            learned = sum(LEARNED[: grid.dp])
            gap = (gradient.double() / learned - weight.grad).norm() / weight.grad.norm()
            right = torch.equal(counts.long(), _counted(weight.detach(), grid.dp))
            found.setdefault(name, {})[kind] = gap.item() if right else float("inf")
    return found


def _counted(weight: Tensor, dp: int) -> Tensor:
    """Choices of own positions, by expert."""
    chosen = []
    for number in range(MICROBATCHES):
        for rank in range(dp):
            hidden, padding = _microbatch(number, rank)
            tokens = hidden.transpose(0, 1)[~padding].double()
            chosen.append((tokens @ weight.t()).topk(TOPK).indices.flatten())
    return torch.bincount(torch.cat(chosen), minlength=EXPERTS)


def capacity(platform: Any) -> dict[str, Any]:
    """By policy: which own positions are dropped wrongly, in rows of two lengths; and the load that
    moves the expert bias."""
    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

    from mimo_core.contract import Grid
    from mimo_core.distributed.process_groups import build_topology

    model_parallel_cuda_manual_seed(1, tp_rank=0, ep_rank=0, etp_rank=0)
    groups = build_topology({"language": Grid()}, {"language": 0}, platform.backend).groups
    found: dict[str, Any] = {}
    for policy in ("probs", "position"):
        for filled in (False, True):
            layer, routers = _layer(
                Grid(),
                groups["language"],
                moe_router_load_balancing_type="none",
                moe_expert_capacity_factor=0.75,
                moe_token_drop_policy=policy,
                moe_pad_expert_input_to_capacity=filled,
            )
            wrong = []
            for longer in (0, 9):
                hidden, padding = _microbatch(0, 0)
                hidden = torch.cat([hidden, _random(5, longer, SAMPLES, HIDDEN)])
                padding = torch.cat([padding, torch.ones(SAMPLES, longer, dtype=torch.bool)], 1)
                routers.set_padding(padding)
                layer.router.local_tokens_per_expert.zero_()
                probabilities, _ = layer(hidden)
                kept = probabilities > 0
                want = _kept(hidden, padding, layer.router.weight.detach(), policy)
                wrong.append(int((kept != want).sum()))
                counts = layer.router.local_tokens_per_expert.long().tolist()
            own = (~padding.t()).flatten()
            choices = (hidden.flatten(0, 1)[own] @ layer.router.weight.t()).topk(TOPK).indices
            exact = torch.bincount(choices.flatten(), minlength=EXPERTS).tolist()
            found[f"{policy}{', filled' if filled else ''}"] = [wrong, counts == exact]
    return found


def _kept(hidden: Tensor, padding: Tensor, weight: Tensor, policy: str) -> Tensor:
    """Which choices of own positions fit, bool ``[T, experts]``, one by one."""
    logits = hidden.flatten(0, 1) @ weight.t()
    own = (~padding.t()).flatten()
    kept = torch.zeros(logits.shape, dtype=torch.bool)
    capacity = -(-int(own.sum()) * TOPK * 3 // (4 * EXPERTS))
    scores = logits.sigmoid()
    chosen = torch.zeros_like(kept).scatter(1, scores.topk(TOPK).indices, value=True) & own[:, None]
    weights = scores / (scores * chosen).sum(1, keepdim=True).clamp(min=1e-20)
    for expert in range(EXPERTS):
        tokens = chosen[:, expert].nonzero().flatten().tolist()
        if policy == "probs":
            tokens.sort(key=lambda token: -float(weights[token, expert]))
        kept[tokens[:capacity], expert] = True
    return kept


def step(
    platform: Any, recipe: str, groups: dict[str, dict[str, list[str]]]
) -> dict[str, dict[str, Any]]:
    """One training step of a recipe's model on one rank, and an evaluation. By group: relative
    differences of each variant's numbers from those of the group's first; the type and the sum of
    each buffer; what is all zeros."""
    found: dict[str, dict[str, Any]] = {}
    for group, variants in groups.items():
        numbers = {name: dict(_numbers(platform, recipe, more)) for name, more in variants.items()}
        first, *others = numbers.values()
        assert all(other.keys() == first.keys() for other in others)
        found[group] = {
            "differences": {
                name: {key: _apart(value, first[key]) for key, value in variant.items()}
                for name, variant in numbers.items()
            },
            "zeros": [key for key, value in first.items() if not value.any()],
            "buffers": {
                key: [str(value.dtype), float(value.double().sum())]
                for key, value in first.items()
                if key.startswith("buffer")
            },
        }
    return found


def _apart(tensor: Tensor, of: Tensor) -> float:
    gap = (tensor.double() - of.double()).norm()
    return (gap / _size(of)).item()


def _size(tensor: Tensor) -> Tensor:
    return tensor.double().norm().clamp(min=1e-30)


def _numbers(platform: Any, recipe: str, overrides: list[str]) -> Iterator[tuple[str, Tensor]]:
    from megatron.core.distributed import DistributedDataParallelConfig

    from mimo_core.distributed.process_groups import build_topology
    from mimo_core.model.builder import BuildConfig, Builder
    from mimo_core.model.moe.routers import has_losses
    from mimo_core.planning.plan import make_plan
    from mimo_core.train.datasets import TrainingData
    from mimo_core.train.finalize_grads import finalize_gradients
    from mimo_core.train.forward_step import LOSS, ForwardStep

    plan = make_plan(recipe, overrides)
    topology = build_topology(plan.layout.grids, plan.layout.rank_offsets, platform.backend)
    build = BuildConfig(
        host=plan.host, graph=plan.graph, topology=topology, platform=platform, seed=1
    )
    language = build.config_of("language")
    (model,) = Builder(build).build_distributed_models(
        topology.collection, ddp_config=DistributedDataParallelConfig()
    )
    model.train()
    samples = TrainingData(plan, 0, count_steps=has_losses(language))
    microbatches = plan.recipe.train.global_batch_size // plan.microbatch
    communicator: Any = SimpleNamespace(is_pp_last_stage=True)
    for split in ("train", "validation"):
        training = split == "train"
        feed = samples.training(0) if training else samples.evaluation(1)
        forward = ForwardStep(communicator, platform, "answered")
        if training:
            batch = feed.peek()
            assert batch is not None and model.routers is not None
            model.routers.begin_step(batch.learned_in_step or 0, microbatches)
        else:
            model.eval()
        total, counted = torch.zeros(()), torch.zeros((), dtype=torch.int)
        with torch.set_grad_enabled(training):
            for _ in range(microbatches):
                output, loss_of = forward(feed, model)
                assert loss_of is not None
                loss, count, reported = loss_of(output)
                if training:
                    loss.backward()
                total, counted = total + reported[LOSS][0], counted + count
        yield f"loss of {split}", total / counted
        if training:
            counts = _counts(model)
            finalize_gradients([model], counted)
            for name in model.nodes:
                for path, parameter in model.bare(name).named_parameters():
                    if parameter.requires_grad:
                        gradient: Any = parameter.main_grad  # type: ignore[attr-defined]
                        yield f"gradient of {name} {path}", gradient.clone()
            yield from counts
            for name in model.nodes:
                for path, buffer in model.bare(name).named_buffers():
                    if path.endswith("expert_bias"):
                        yield f"buffer {path}", buffer.clone()


def _counts(model: Any) -> list[tuple[str, Tensor]]:
    """Tokens counted in the step, before they are reset."""
    return [
        (f"buffer {path}", buffer.clone())
        for path, buffer in model.bare("language").named_buffers()
        if path.endswith("tokens_per_expert")
    ]
