"""The run of one rank: recipe -> topology -> communicator -> model -> stock ``pretrain()``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.enums import ModelType
from megatron.training import training
from megatron.training.argument_utils import pretrain_cfg_container_from_args

from mimo_core.checkpoint.directory import newest
from mimo_core.contract import LANGUAGE, Split
from mimo_core.data.iterator import MicrobatchIterator
from mimo_core.distributed.process_groups import build_topology
from mimo_core.megatron_patches.training_loop import (
    install_stop_callback,
    patch_training_loop,
    trace_passes,
    treat_exit_as_completion,
    write_tensorboard,
)
from mimo_core.model import platform_config
from mimo_core.model.builder import BuildConfig
from mimo_core.model.mimo_model import RankMimoModel
from mimo_core.model.moe.routers import has_losses
from mimo_core.optimizer import build_optimizer
from mimo_core.planning.plan import Plan
from mimo_core.planning.sequence_budget import label_notes
from mimo_core.platforms.base import RankPlatform
from mimo_core.profile.profile import Profile, is_noop
from mimo_core.reporting.console import Answer
from mimo_core.reporting.run_directory import RunDirectory
from mimo_core.reporting.summary import NO_LABELS, Iteration, Reporter, not_finite
from mimo_core.train.checkpointing.resume import ResumeState
from mimo_core.train.checkpointing.run_metadata import facts_to_keep
from mimo_core.train.communicator import make_communicator
from mimo_core.train.datasets import TrainingData
from mimo_core.train.encoder_prefetch import supports_prefetch
from mimo_core.train.finalize_grads import finalize_gradients
from mimo_core.train.forward_step import LOSS, POSITIONS, ForwardStep
from mimo_core.train.megatron_args import Steps, flags, parse
from mimo_core.train.metrics import MetricsCollector
from mimo_core.train.model_checks import ModelChecks
from mimo_core.train.replica_consistency import compare_configurations
from mimo_core.train.sample_predictions import PredictionCollector
from mimo_core.train.skipped_steps import SkippedSteps
from mimo_core.utils.activity import CURRENT
from mimo_core.utils.signals import Termination
from mimo_core.weights.pretrained import notes


class Trainer:
    """One rank of a run, from process groups to the last checkpoint."""

    def __init__(
        self,
        plan: Plan,
        platform: RankPlatform,
        folder: RunDirectory,
        reporter: Reporter | None,
        termination: Termination,
    ) -> None:
        """Make groups, communicator and data. Called by all ranks of the world.

        Args:
            plan: What to run; the same on all ranks.
            platform: This rank's machine.
            folder: The run's folder, shared by all ranks.
            reporter: On the rank that reports, else ``None``.
            termination: What SIGTERM does to this rank.
        """
        self._plan = plan
        self._platform = platform
        self._reporter = reporter
        self._termination = termination
        self._stopped = False
        self._rank = dist.get_rank()
        self.checkpoints = folder.checkpoints(plan.recipe.checkpoint.directory)
        self._history = ResumeState.find(plan, self.checkpoints)
        self._names = plan.layout.modules_on_rank(self._rank)
        self._train = plan.recipe.train
        self._topology = build_topology(
            plan.layout.grids, plan.layout.rank_offsets, platform.backend
        )
        self._build = BuildConfig(
            host=plan.host,
            graph=plan.graph,
            topology=self._topology,
            platform=platform,
            seed=self._train.seed,
        )
        compare_configurations(plan, self._build)
        self._communicator = make_communicator(
            plan, platform, self._topology, self._build.config_of, self._rank
        )
        self._samples = TrainingData(
            plan,
            self._rank,
            pinned=platform.name == "cuda",
            count_steps=has_losses(self._build.config_of(LANGUAGE)),
        )
        metric = getattr(self._samples.held_out, "metric", "exact_match")
        self._forward_step = ForwardStep(self._communicator, platform, metric)
        self._measures = MetricsCollector(
            plan=plan,
            samples=self._samples,
            topology=self._topology,
            platform=platform,
            rank=self._rank,
        )
        self._facts = facts_to_keep(plan, self._samples, platform.name)
        self._history.prepare(self._build)
        self._args = parse(plan, flags(plan, self._steps()))
        install_stop_callback(self._args, self._agreed_to_stop)
        if reporter is not None:
            write_tensorboard(folder.tensorboard)
            self._tell(reporter)
        self._feeds: dict[Split, MicrobatchIterator] = {}
        self._evaluated: dict[int, Any] = {}
        self._skipped = SkippedSteps()
        self._checks = ModelChecks(plan, reporter)
        self._ended: float | None = None
        self._profile = Profile(
            plan=plan, platform=platform, folder=folder, reporter=reporter, passes=trace_passes
        )
        self._answers = PredictionCollector(
            plan=plan,
            topology=self._topology,
            wanted=plan.recipe.validation.num_displayed,
            held_out=self._samples.held_out,
        )

    def run(self) -> None:
        """Train, evaluate and save by the stock loop."""
        self._history.adapt(
            self._facts, self._platform, self._build.origins, self._checks.before_saving
        )
        patch_training_loop(
            train_step=self._around_step,
            evaluate=self._around_evaluation,
            build_optimizer=build_optimizer,
        )
        self._build.config_of(LANGUAGE).finalize_model_grads_func = finalize_gradients
        with treat_exit_as_completion():
            training.pretrain(
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
            "module": ", ".join(self._names),
            "decoded": sum(feed.decoded for feed in self._feeds.values()),
            "dropout": {name: self._dropout(name) for name in self._names},
            **self._measures.of_rank(),
        }
        ranks: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(ranks, mine)
        answers = self._answers.gather()
        for feed in self._feeds.values():
            feed.close()
        untrained = None
        if self._history.newest.manifest is None:
            untrained = self._skipped.untrained()
        summary = None
        if self._reporter is not None:
            more = {"ranks": ranks} if untrained is None else {"ranks": ranks, "finished": False}
            summary = self._report_end(self._reporter, answers, more)
        if untrained is not None:
            dist.barrier()  # The summary is written.
            raise untrained
        return summary

    def _report_end(
        self, reporter: Reporter, answers: list[Answer], more: dict[str, Any]
    ) -> dict[str, Any]:
        if (missed := self._profile.missed()) is not None:
            reporter.note(missed)
        saved = newest(self.checkpoints)
        path = None if saved.manifest is None else str(saved.path)
        told_by = "SIGTERM" if self._stopped else None
        told, tables = self._measures.of_all(reporter.steady, more["ranks"])
        more = {**more, "checkpoint": path, "stopped_by": told_by, **told}
        return reporter.end(answers, more, tables)

    def _dropout(self, module: str) -> float:
        config = self._build.config_of(module)
        return float(max(config.hidden_dropout, config.attention_dropout))

    # Parts
    def _steps(self) -> Steps:
        return Steps(
            evaluation_iterations=-(-self._samples.looked_at // self._train.global_batch_size),
            save=self.checkpoints,
            resume=self._history.newest.manifest is not None,
            init_from=self._history.init_from,
        )

    def _tell(self, reporter: Reporter) -> None:
        """What a person should know before the run begins, or goes on."""
        weights = notes(self._build.weights, self._build.saved)
        told = (*self._platform.notes(), *platform_config.notes(self._plan.graph, self._platform))
        labels = (*self._plan.data_notes, *label_notes(self._plan.preview))
        told = (*told, *self._plan.graph.notes, *labels, *weights, *self._samples.notes)
        if (unread := is_noop(self._plan.recipe.profile)) is not None:
            reporter.note(unread)
        for line in (*told, *self._history.notes(self._facts, self._build.origins)):
            reporter.note(line)

    def _make_feeds(
        self, _samples: Any
    ) -> tuple[MicrobatchIterator, MicrobatchIterator | None, None]:
        """Training and validation iterators; the stock loop calls it after loading."""
        self._history.go_on(self._facts, self._platform, self._topology)
        train = self._feeds["train"] = self._samples.training(self._args.consumed_train_samples)
        self._communicator.begin(train, learning=True)
        if self._reporter is not None:
            self._reporter.begin(self._args.iteration)
        if not self._args.eval_iters:
            return train, None, None
        held_out = self._feeds["validation"] = self._samples.evaluation(self._args.eval_iters)
        return train, held_out, None

    # Around the stock loop
    def _around_step(self, stock: Callable[..., Any]) -> Callable[..., Any]:
        def train_step(*args: Any, iteration: int, **kwargs: Any) -> Any:
            self._termination.begin()
            CURRENT.begin(iteration + 1, "forward-backward")
            _, _, model, optimizer, scheduler, *_ = args
            self._checks.before_step(model[0], self._feeds["train"])
            sent = self._while_a_step_ends(iteration, model[0])
            self._communicator.begin(self._feeds["train"], learning=True, sent=sent)
            if iteration == 0 and self._plan.recipe.checkpoint.save_at_start:
                training.save_checkpoint_and_time(0, model, optimizer, scheduler, 0, {})
            with self._profile.around():
                started = time.perf_counter()
                self._scale_router_losses(model[0])
                result = stock(*args, iteration=iteration, **kwargs)
                self._platform.synchronize()
                ended = time.perf_counter()
            if (tuned := self._platform.tuned()) is not None:
                print(tuned, flush=True)
            losses, skipped, *_, norm, _zeros, _logit = result
            if not optimizer.has_learned_tokens and LOSS in losses:
                # The stock loop divides by their number, and writes what comes out.
                del losses[LOSS]
            work, without_labels = self._measures.after_step(
                self._feeds["train"], model[0], optimizer
            )
            self._checks.after_step(work.media)
            norms = {
                name: norm if math.isfinite(norm) else None
                for name, norm in optimizer.norms.items()
            }
            cause = None
            if skipped:
                cause = not_finite(norms) if optimizer.has_learned_tokens else NO_LABELS
            row = Iteration(
                iteration=iteration + 1,
                loss=None if skipped or LOSS not in losses else losses[LOSS].item(),
                gradient_norm=None if norm is None else float(norm),
                gradient_norms=norms,
                skipped=cause,
                samples_without_labels=without_labels,
                step_seconds=ended - started,
                elapsed_seconds=None if self._ended is None else ended - self._ended,
                positions=self._positions(losses),
                flops=work.flops,
                media=work.media,
            )
            self._ended = ended
            if self._reporter is not None:
                self._reporter.step(row)
            self._profile.tell(row.iteration)
            self._skipped.count(row)
            return result

        return train_step

    def _scale_router_losses(self, model: RankMimoModel) -> None:
        """Called by all ranks before a step's first microbatch."""
        if model.routers is None:
            return
        batch = self._feeds["train"].peek()
        if batch is not None and batch.learned_in_step is not None:
            microbatches = self._train.global_batch_size // self._plan.microbatch
            model.routers.begin_step(batch.learned_in_step, microbatches)

    def _while_a_step_ends(
        self, iteration: int, model: RankMimoModel
    ) -> Callable[[int], None] | None:
        """What this rank does when its last rows of a step have left, if there is a next step."""
        if iteration + 1 >= self._train.iterations or not supports_prefetch(model):
            return None
        last = self._train.global_batch_size // self._plan.microbatch

        def sent(count: int) -> None:
            if count == last:
                self._forward_step.early.compute(self._feeds["train"], model)

        return sent

    def _positions(self, losses: Mapping[str, torch.Tensor]) -> int:
        """Of the global batch; packed ones are reported as a mean over ranks and microbatches."""
        train = self._train
        if POSITIONS not in losses:
            return train.global_batch_size * train.sequence_length
        return round(losses[POSITIONS].item() * train.global_batch_size / train.micro_batch_size)

    def _around_evaluation(self, stock: Callable[..., Any]) -> Callable[..., Any]:
        def evaluate(*args: Any, **kwargs: Any) -> Any:
            iteration = int(self._args.consumed_train_samples // self._train.global_batch_size)
            # The stock loop looks once more after the last iteration.
            if iteration not in self._evaluated:
                if self._agreed_to_stop():
                    # There may be no time for it: as where the stock loop's time is up.
                    return None, None, True
                self._communicator.begin(self._feeds["validation"], learning=False)
                self._forward_step.answers = self._answers.open()
                with CURRENT.during("evaluation"):
                    self._evaluated = {iteration: stock(*args, **kwargs)}
                self._forward_step.answers = None
                self._communicator.begin(self._feeds["train"], learning=True)
                self._report_evaluation(iteration, self._evaluated[iteration][0])
            return self._evaluated[iteration]

        return evaluate

    def _agreed_to_stop(self) -> bool:
        """Whether any rank was told to stop. Called by all ranks, which get the same answer."""
        if not self._stopped:
            asked = torch.tensor([self._termination.asked], dtype=torch.int32)
            asked = asked.to(self._platform.device)
            dist.all_reduce(asked, op=dist.ReduceOp.MAX)
            self._stopped = bool(asked.item())
        return self._stopped

    def _report_evaluation(self, iteration: int, losses: Mapping[str, torch.Tensor]) -> None:
        if self._reporter is not None:
            results = {"loss" if k == LOSS else k: float(v) for k, v in losses.items()}
            self._reporter.evaluation(iteration, results)


def _distributed(provider: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Mark a data provider as one that every rank calls."""

    def call(samples: Any) -> Any:
        return provider(samples)

    call.is_distributed = True  # type: ignore[attr-defined]
    return call
