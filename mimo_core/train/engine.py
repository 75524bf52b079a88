"""The run of one rank: recipe -> topology -> communicator -> model -> stock ``pretrain()``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing import load_common_state_dict
from megatron.core.enums import ModelType
from megatron.training.argument_utils import pretrain_cfg_container_from_args
from megatron.training.training import pretrain

from mimo_core.communicator.bridge import Bridge
from mimo_core.communicator.pipeline import PipelineCommunicator
from mimo_core.communicator.routes import bridge_ranks, edge_route
from mimo_core.contract import LANGUAGE, Split
from mimo_core.data.feed import Feed
from mimo_core.gradients import finalize_gradients
from mimo_core.model.builder import BuildConfig
from mimo_core.model.config import DTYPES
from mimo_core.plan import Plan
from mimo_core.platforms.base import RankPlatform
from mimo_core.report.reporter import Iteration, Reporter
from mimo_core.run_folder import RunFolder, latest_checkpoint
from mimo_core.topology import build_topology
from mimo_core.train.adaptations import adapt_stock_loop, exit_is_an_end, write_tensorboard
from mimo_core.train.answers import AnswerSheet
from mimo_core.train.arguments import Steps, flags, parse
from mimo_core.train.facts import changes, facts_to_keep
from mimo_core.train.samples import Samples
from mimo_core.train.starting import starting_weights
from mimo_core.train.step import LOSS, POSITIONS, ForwardStep
from mimo_core.weights.beginning import directories, notes


class Engine:
    """One rank of a run, from process groups to the last checkpoint."""

    def __init__(
        self,
        plan: Plan,
        platform: RankPlatform,
        folder: RunFolder,
        reporter: Reporter | None,
    ) -> None:
        """Make groups, communicator and data. Called by all ranks of the world.

        Args:
            plan: What to run; the same on all ranks.
            platform: This rank's machine.
            folder: The run's folder, shared by all ranks.
            reporter: On the rank that reports, else ``None``.
        """
        self._plan = plan
        self._platform = platform
        self._reporter = reporter
        self._rank = dist.get_rank()
        self._name = plan.layout.module_of(self._rank)
        self._train = plan.recipe.train
        self._topology = build_topology(
            plan.layout.grids, plan.layout.first_ranks, platform.backend
        )
        self._build = BuildConfig(
            host=plan.host,
            graph=plan.graph,
            topology=self._topology,
            platform=platform,
            seed=self._train.seed,
        )
        self._communicator = self._make_communicator()
        self._samples = Samples(plan, self._rank)
        metric = getattr(self._samples.held_out, "metric", "exact_match")
        self._forward_step = ForwardStep(self._communicator, platform, metric)
        self.checkpoints = folder.checkpoints(plan.recipe.checkpoint.directory)
        self._latest = latest_checkpoint(self.checkpoints)
        self._build.weights = directories(plan, self._latest)
        self._args = parse(plan, flags(plan, self._steps()))
        # Saved with every checkpoint, as all arguments are.
        self._args.mimo_facts = facts_to_keep(plan, self._samples)
        if reporter is not None:
            write_tensorboard(folder.tensorboard)
            self._tell(reporter)
        self._feeds: dict[Split, Feed] = {}
        self._evaluated: dict[int, Any] = {}
        self._answers = AnswerSheet(
            plan=plan,
            topology=self._topology,
            wanted=plan.recipe.evaluate.show,
            held_out=self._samples.held_out,
        )

    def run(self) -> None:
        """Train, evaluate and save by the stock loop."""
        adapt_stock_loop(train_step=self._around_step, evaluate=self._around_evaluation)
        self._build.config_of(LANGUAGE).finalize_model_grads_func = finalize_gradients
        with exit_is_an_end():
            pretrain(
                pretrain_cfg_container_from_args(self._args, self._build),
                _distributed(self._make_feeds),
                ModelType.encoder_or_decoder,
                self._forward_step,
                p2p_communicator=self._communicator,
                pg_collection=self._topology.collection,
                skip_model_parallel_init=True,
            )
        self._communicator.finish()

    def finish(self) -> dict[str, Any] | None:
        """What all ranks have to tell, at the reporter. Called by all ranks."""
        mine = {
            "rank": self._rank,
            "module": self._name,
            "decoded": sum(feed.decoded for feed in self._feeds.values()),
            "peak_memory_bytes": self._platform.peak_memory(),
        }
        ranks: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(ranks, mine)
        answers = self._answers.gather()
        if self._reporter is None:
            return None
        iteration = latest_checkpoint(self.checkpoints)
        saved = None if iteration is None else self.checkpoints / f"iter_{iteration:07d}"
        return self._reporter.end(
            answers, {"ranks": ranks, "checkpoint": None if saved is None else str(saved)}
        )

    # Parts
    def _make_communicator(self) -> PipelineCommunicator:
        graph, layout = self._plan.graph, self._plan.layout
        groups = self._topology.groups[self._name]
        silent = {name for name in graph.encoders if graph.modules[name].wholly_frozen}
        bridge = Bridge(
            routes=[
                edge_route(edge.source, layout, self._plan.microbatch, self._rank)
                for edge in graph.edges
                if self._name in (edge.source, LANGUAGE)
            ],
            ranks=bridge_ranks(layout) if graph.encoders else [],
            width=graph.descriptions[LANGUAGE].width,
            dtype=DTYPES[graph.modules[LANGUAGE].precision],
            silent=frozenset(silent),
            platform=self._platform,
        )
        return PipelineCommunicator(
            module=self._name,
            layout=layout,
            rank=self._rank,
            config=self._build.config_of(self._name),
            pp_group=groups.pp,
            bridge=bridge,
        )

    def _steps(self) -> Steps:
        return Steps(
            evaluation_iterations=-(-self._samples.looked_at // self._train.global_batch_size),
            save=self.checkpoints,
            resume=self._latest is not None,
            start_from=starting_weights(self._plan, self._latest),
        )

    def _tell(self, reporter: Reporter) -> None:
        """What a person should know before the run begins, or goes on."""
        for line in (*notes(self._build.weights), *self._samples.notes):
            reporter.note(line)
        if self._latest is not None:
            saved = load_common_state_dict(self.checkpoints / f"iter_{self._latest:07d}")["args"]
            for line in changes(getattr(saved, "mimo_facts", {}), self._args.mimo_facts):
                reporter.note(line)

    def _make_feeds(self, _samples: Any) -> tuple[Feed, Feed | None, None]:
        """Training and validation iterators; the stock loop calls it after loading."""
        train = self._feeds["train"] = self._samples.training(self._args.consumed_train_samples)
        self._communicator.begin(train)
        if self._reporter is not None:
            self._reporter.begin(self._args.iteration)
        if not self._args.eval_iters:
            return train, None, None
        held_out = self._feeds["validation"] = self._samples.evaluation(self._args.eval_iters)
        return train, held_out, None

    # Around the stock loop
    def _around_step(self, stock: Callable[..., Any]) -> Callable[..., Any]:
        def train_step(*args: Any, iteration: int, **kwargs: Any) -> Any:
            self._communicator.begin(self._feeds["train"])
            started = time.perf_counter()
            result = stock(*args, iteration=iteration, **kwargs)
            self._platform.synchronize()
            seconds = time.perf_counter() - started
            if self._reporter is not None:
                losses, skipped, *_, norm, _zeros, _logit = result
                loss = None if skipped or LOSS not in losses else losses[LOSS].item()
                self._reporter.step(
                    Iteration(
                        iteration=iteration + 1,
                        loss=loss,
                        gradient_norm=None if norm is None else float(norm),
                        step_seconds=seconds,
                        positions=self._positions(losses),
                    )
                )
            return result

        return train_step

    def _positions(self, losses: Mapping[str, torch.Tensor]) -> int:
        """Of the global batch; packed ones are reported as a mean over ranks and microbatches."""
        train = self._train
        if POSITIONS not in losses:
            return train.global_batch_size * train.sequence_length
        return round(losses[POSITIONS].item() * train.global_batch_size / train.micro_batch_size)

    def _around_evaluation(self, stock: Callable[..., Any]) -> Callable[..., Any]:
        def evaluate(*args: Any, **kwargs: Any) -> Any:
            iteration = self._iterations_done()
            # The stock loop looks once more after the last iteration.
            if iteration not in self._evaluated:
                self._communicator.begin(self._feeds["validation"])
                self._forward_step.answers = self._answers.open()
                self._evaluated = {iteration: stock(*args, **kwargs)}
                self._forward_step.answers = None
                self._communicator.begin(self._feeds["train"])
                self._report_evaluation(iteration, self._evaluated[iteration][0])
            return self._evaluated[iteration]

        return evaluate

    def _report_evaluation(self, iteration: int, losses: Mapping[str, torch.Tensor]) -> None:
        if self._reporter is not None:
            results = {"loss" if k == LOSS else k: float(v) for k, v in losses.items()}
            self._reporter.evaluation(iteration, results)

    def _iterations_done(self) -> int:
        args = self._args
        return int(args.consumed_train_samples // self._train.global_batch_size)


def _distributed(provider: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Mark a data provider as one that every rank calls."""

    def call(samples: Any) -> Any:
        return provider(samples)

    call.is_distributed = True  # type: ignore[attr-defined]
    return call
