"""What ``test_pipeline`` runs on ranks: the stock 1F1B schedule over our communicator.

The model is plain torch, so that the test can compute the same without ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mimo_core.contract import LANGUAGE, Grid
from mimo_core.planning.rank_layout import Layout, plan_layout

WIDTH = 4
LENGTH = 3

Counts = dict[str, list[list[int]]]
"""By encoder, by microbatch: rows of each sample of the whole microbatch."""


class EncoderStage(nn.Module):
    """Rows in ``[N, 1, WIDTH]``, rows out; the last stage puts out ``[N, WIDTH]``."""

    def __init__(self, name: str, stage: int, last: bool) -> None:
        super().__init__()
        self.linear = _linear(name, stage)
        self.last = last

    def forward(self, rows: Tensor) -> Tensor:
        # The schedule frees what a stage puts out, which must be no view.
        return torch.tanh(self.linear(rows.squeeze(1) if self.last else rows))


class LanguageStage(nn.Module):
    """Sums the rows of a sample into its sequence ``[LENGTH, B, WIDTH]``; the last stage scores."""

    def __init__(self, stage: int, last: bool) -> None:
        super().__init__()
        self.linear = _linear(LANGUAGE, stage)
        self.last = last

    def embed(self, text: Tensor, rows: dict[str, Tensor], counts: dict[str, list[int]]) -> Tensor:
        """Text ``[B]``; a kind of which the microbatch has no row is not looked at."""
        sums = torch.zeros(len(text), WIDTH)
        for encoder, tensor in rows.items():
            if len(tensor):
                owner = torch.repeat_interleave(
                    torch.arange(len(text)), torch.tensor(counts[encoder])
                )
                sums = sums.index_add(0, owner, tensor * len(encoder))
        return (sums + text[:, None]) * torch.arange(1.0, LENGTH + 1)[:, None, None]

    def forward(self, hidden: Tensor) -> Tensor:
        """``[LENGTH, B, WIDTH]``, on the last stage losses ``[B, LENGTH]``."""
        out = torch.tanh(self.linear(hidden))
        return out.square().sum(-1).transpose(0, 1) if self.last else out


def _linear(name: str, stage: int) -> nn.Linear:
    generator = torch.Generator().manual_seed(len(name) * 10 + stage)
    linear = nn.Linear(WIDTH, WIDTH)
    for parameter in linear.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 2
    return linear


def media(encoder: str, number: int, counts: list[int]) -> Tensor:
    """A microbatch's input of an encoder, ``[N, 1, WIDTH]``."""
    generator = torch.Generator().manual_seed(1000 * len(encoder) + number)
    return torch.randn(sum(counts), 1, WIDTH, generator=generator)


def text(number: int, samples: int) -> Tensor:
    """A microbatch's text, ``[B]``."""
    return torch.randn(samples, generator=torch.Generator().manual_seed(number))


class Feed:
    """One rank's microbatches, with a look at the rows of the next."""

    def __init__(self, layout: Layout, module: str, dp: int, counts: Counts, count: int) -> None:
        from mimo_core.distributed.routing import sample_slice

        self.number = 0
        self.count = count
        self.module = module
        self.counts = counts
        self.samples = len(next(iter(counts.values()))[0])
        self.own = slice(*sample_slice(self.samples, layout.grids[module].dp, dp))

    def peek_row_counts(self) -> dict[str, list[int]]:
        number = self.number % self.count
        return {name: counts[number][self.own] for name, counts in self.counts.items()}

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> tuple[Tensor, dict[str, list[int]]]:
        rows = self.peek_row_counts()
        number = self.number % self.count
        self.number += 1
        if self.module == LANGUAGE:
            return text(number, self.samples)[self.own], rows
        counts = self.counts[self.module][number]
        before, own = sum(counts[: self.own.start]), sum(rows[self.module])
        return media(self.module, number, counts)[before : before + own], rows


class Ranked(nn.Module):
    """A stage as the schedule takes it."""

    def __init__(self, stage: nn.Module, config: Any) -> None:
        super().__init__()
        self.stage, self.config = stage, config
        self.events: list[str] = []
        self.input: dict[str, Tensor] = {}
        stage.linear.weight.register_hook(lambda _: self.events.append("B"))

    def set_input_tensor(self, given: list[dict[str, Tensor]]) -> None:
        (self.input,) = given


class Case:
    """One layout with a model and a communicator on this rank."""

    def __init__(
        self,
        platform: Any,
        grids: dict[str, dict[str, int]],
        counts: Counts,
        frozen: list[str],
        ahead: dict[str, int] | None = None,
    ) -> None:
        import torch.distributed as dist
        from megatron.core.transformer import TransformerConfig

        from mimo_core.distributed.bridge import ModuleBridge
        from mimo_core.distributed.pipeline_communicator import PipelineCommunicator
        from mimo_core.distributed.process_groups import build_topology
        from mimo_core.distributed.routing import bridge_ranks, route_edge

        self.layout = plan_layout({name: Grid(**sizes) for name, sizes in grids.items()})
        rank = dist.get_rank()
        self.module = self.layout.module_of(rank)
        self.at = self.layout.coordinates(rank, self.module)
        self.counts = counts
        stages = self.layout.grids[self.module].pp
        first, last = self.at["pp"] == 0, self.at["pp"] == stages - 1
        self.first = first
        config = TransformerConfig(
            num_layers=stages,
            hidden_size=WIDTH,
            num_attention_heads=1,
            pipeline_model_parallel_size=stages,
            variable_seq_lengths=True,
            calculate_per_token_loss=True,
            pipeline_dtype=torch.float32,
            deallocate_pipeline_outputs=True,
            moe_token_dispatcher_type="alltoall",  # the default refuses variable lengths
        )
        self.topology = build_topology(
            self.layout.grids, self.layout.rank_offsets, platform.backend
        )
        samples = len(next(iter(counts.values()))[0])
        ends = list(counts) if self.module == LANGUAGE else [self.module]
        bridge = ModuleBridge(
            routes=[route_edge(name, self.layout, samples, rank) for name in ends],
            ranks=bridge_ranks(self.layout),
            width=WIDTH,
            dtype=torch.float32,
            silent=frozenset(frozen),
            titles={name: f"module {name!r}" for name in ends},
            platform=platform,
        )
        self.communicator = PipelineCommunicator(
            module=self.module,
            layout=self.layout,
            rank=rank,
            config=config,
            pp_group=self.topology.groups[self.module].pp,
            bridge=bridge,
            layers_learn=self.module not in frozen,
            ahead=(ahead or {}).get(self.module, 0),
        )
        stage = (
            LanguageStage(self.at["pp"], last)
            if self.module == LANGUAGE
            else EncoderStage(self.module, self.at["pp"], last)
        )
        self.model = Ranked(stage, config)
        self.model.requires_grad_(self.module not in frozen)

    def step(self, data: Feed, model: Ranked) -> tuple[Any, Any]:
        inputs, rows = next(data)
        model.events.append("F")
        stage = model.stage
        if self.module != LANGUAGE:
            self.communicator.produced(rows)
            given = inputs if self.first else model.input[self.module]
            if not next(stage.parameters()).requires_grad:
                given = given.detach()
            return {self.module: stage(given)}, None
        hidden = stage.embed(inputs, model.input, rows) if self.first else model.input[LANGUAGE]
        output = stage(hidden)
        if not self.communicator.is_pp_last_stage:
            return {LANGUAGE: output}, None

        def loss(losses: Tensor) -> tuple[Tensor, Tensor, dict[str, Any]]:
            total = losses.sum()
            return total, torch.tensor(losses.numel(), dtype=torch.int), {"loss": total.item()}

        return output, loss

    def run(self, count: int, forward_only: bool) -> dict[str, Any]:
        """One step of ``count`` microbatches through the stock schedule."""
        from megatron.core.pipeline_parallel.schedules import (
            forward_backward_pipelining_without_interleaving as schedule,
        )

        feed = Feed(self.layout, self.module, self.at["dp"], self.counts, count)
        self.model.zero_grad()
        self.model.events.clear()
        self.communicator.begin(feed, learning=not forward_only)
        reported = schedule(
            forward_step_func=self.step,
            data_iterator=feed,
            model=self.model,
            num_microbatches=count,
            seq_length=LENGTH,
            micro_batch_size=1,
            forward_only=forward_only,
            p2p_communicator=self.communicator,
            pg_collection=self.topology.collection,
        )
        return {
            "losses": [row["loss"] for row in reported],
            "events": "".join(self.model.events),
            "gradients": {
                name: None if parameter.grad is None else parameter.grad.tolist()
                for name, parameter in self.model.stage.named_parameters()
            },
        }


def everything(platform: Any, cases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Every case on this rank: evaluation twice, training twice, evaluation, a short step.

    The first evaluation is a short one: what it leaves behind would shift all that follows.
    """
    result = {}
    for name, given in cases.items():
        case = Case(platform, **given)
        count = len(next(iter(given["counts"].values())))
        runs = [(1, True), (count, True), (count, False), (count, False), (count, True), (1, False)]
        result[name] = {
            "stages": [case.communicator.current_stage, case.communicator.total_stages],
            "runs": [case.run(*run) for run in runs],
        }
        # Wait for what is still being sent: it is lost with the communicator.
        case.communicator.finish()
    return result
