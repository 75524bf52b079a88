"""What a run goes on from, or starts with, as all its ranks see it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch.distributed as dist

from mimo_core.checkpoint.compatibility import data_differences, module_differences, start_notes
from mimo_core.checkpoint.directory import LatestCheckpoint, newest, repair_tracker
from mimo_core.checkpoint.manifest import Manifest
from mimo_core.checkpoint.resume_changes import resume_changes, surroundings_changes
from mimo_core.distributed.process_groups import Topology
from mimo_core.distributed.seeding import seed_module
from mimo_core.megatron_patches.training_loop import adapt_checkpoints
from mimo_core.model.builder import BuildConfig
from mimo_core.planning.plan import Plan
from mimo_core.platforms.base import RankPlatform
from mimo_core.train.checkpointing.integrity import check_format, compare_checksums
from mimo_core.train.checkpointing.load_validation import CheckpointValidator
from mimo_core.train.checkpointing.rng_state import load_random_state
from mimo_core.train.checkpointing.run_metadata import changes, plugin_changes, same_place
from mimo_core.train.checkpointing.save import CheckpointSaver
from mimo_core.train.consistency_checks import compare_directories
from mimo_core.weights.compare import DirectoryMatch
from mimo_core.weights.frozen_sources import WeightSources, check_origins
from mimo_core.weights.pretrained import directories
from mimo_core.weights.warm_start import starting_weights


@attrs.frozen(kw_only=True)
class ResumeState:
    """Found by rank 0 alone, so that no two ranks see another folder."""

    plan: Plan
    newest: LatestCheckpoint
    """Of the run's own folder."""
    weights: LatestCheckpoint | None
    """Of another run: a new one starts with its weights."""
    run: str = ""
    """Identity of the run."""

    @classmethod
    def find(cls, plan: Plan, checkpoints: Path) -> ResumeState:
        """Look, and let megatron's tracker name what was found. Called by all ranks.

        Raises:
            CheckpointError: a file of a checkpoint that is to be loaded is not what was saved; on
                all ranks.
            ValueError: on rank 0: see :func:`~mimo_core.weights.warm_start.starting_weights` and
                :func:`~mimo_core.checkpoint.directory.newest`.
        """
        box: list[Any] = [None, None, None]
        if dist.get_rank() == 0:
            found = newest(checkpoints).usable()
            repair_tracker(found)
            run = found.manifest.run if found.manifest else uuid.uuid4().hex
            box = [found, starting_weights(plan, found.iteration), run]
            if any(one and one.manifest and one.manifest.origins for one in box[:2]):
                told = cls(plan=plan, newest=box[0], weights=box[1])
                check_origins(told.manifest, told.directories())
        dist.broadcast_object_list(box)
        history = cls(plan=plan, newest=box[0], weights=box[1], run=box[2])
        compare_checksums(history.source)
        check_format(history.source)
        done = history.newest.iteration
        print("begins" if done is None else f"goes on after iteration {done}", flush=True)
        return history

    @property
    def source(self) -> LatestCheckpoint:
        """What is loaded, if anything is."""
        return self.newest if self.weights is None else self.weights

    @property
    def manifest(self) -> Manifest | None:
        """Of the checkpoint that the run goes on from, or starts with."""
        return self.source.manifest

    def directories(self) -> dict[str, DirectoryMatch]:
        """Directories whose weights modules begin with, or read again."""
        return directories(self.plan, self.newest.iteration, self.manifest)

    def prepare(self, build: BuildConfig) -> None:
        """Tell the builder which weights it reads, beside those that megatron loads.

        Called by all ranks.

        Raises:
            ValueError: ranks would read other weights in a directory of the same path.
        """
        build.weights, build.saved = self.directories(), self.manifest
        compare_directories(self.plan, build.weights)
        if not self.plan.recipe.checkpoint.save_frozen:
            start = self.weights
            build.origins = WeightSources(
                goes_on=self.newest.manifest,
                start=(start.path, start.manifest) if start and start.manifest else None,
                directories=build.weights,
            )

    def _saved_whole(self, origins: WeightSources | None) -> Iterator[str]:
        """Modules whose frozen weights are saved, as they can be read again nowhere."""
        if origins is not None:
            for name in origins.modules_without(self.plan.graph.frozen):
                yield (
                    f"checkpoint.save_frozen is false, but the frozen weights of {name} are saved: "
                    "no directory (modules.NAME.pretrained_weights) and no init_from gave them"
                )

    @property
    def init_from(self) -> Path | None:
        """The folder of checkpoints that a new run takes weights of."""
        return None if self.weights is None else self.weights.checkpoints

    def notes(self, facts: Mapping[str, Any], origins: WeightSources | None) -> Iterator[str]:
        """What a person should know before the run begins, or goes on, a line each.

        Args:
            facts: Those of the run now (``facts_to_keep``).
            origins: The builder's.

        Raises:
            ValueError: the checkpoint is of another tokenizer.
        """
        yield from self._saved_whole(origins)
        yield from self.newest.told
        if self.newest.told:
            where = "begins anew" if self.newest.manifest is None else "goes on from the one before"
            yield f"the run {where}, and writes these iterations anew when it gets there"
        if self.newest.manifest is not None:
            yield from changes(self.newest.manifest, facts)
            yield from data_differences(self.newest.manifest, self.plan)
            yield from resume_changes(self.newest.manifest, self.plan, facts)
        if self.weights is not None and self.weights.manifest is not None:
            yield from self.weights.told
            if self.weights.manifest.tokenizer != facts["tokenizer"]:
                yield (
                    f"the weights of {self.weights.path} come from a run with another tokenizer: "
                    "their embedding knows other texts by these token ids"
                )
            yield from start_notes(self.weights.manifest, self.plan)
            yield from plugin_changes(self.weights.manifest, facts)
            yield from surroundings_changes(self.weights.manifest, facts)

    def adapt(
        self,
        facts: Mapping[str, Any],
        platform: RankPlatform,
        origins: WeightSources | None,
        check: Callable[[int], None],
    ) -> None:
        """Have megatron load what was found, if it fits, and save complete checkpoints alone.

        Args:
            facts: Those of the run (``facts_to_keep``).
            platform: This rank's machine.
            origins: The builder's.
            check: Called by all ranks with the iteration before it is saved; raises where it must
                not be.
        """
        manifest = self.source.manifest
        adapt_checkpoints(
            iteration=self.source.iteration,
            save=CheckpointSaver(
                facts=facts,
                run=self.run,
                platform=platform,
                loaded=self.newest.iteration,
                check=check,
                origins=origins,
            ),
            load=lambda stock: (
                stock
                if manifest is None
                else CheckpointValidator(
                    manifest=manifest,
                    weights_only=self.weights is not None,
                    differing=module_differences(manifest, self.plan),
                    platform=platform,
                )(stock)
            ),
        )

    def go_on(self, facts: Mapping[str, Any], platform: RankPlatform, topology: Topology) -> None:
        """Restore this rank's random state; after loading, which draws. Called by all ranks.

        A module whose grid or device is another now draws anew, from the seed and the iteration.
        """
        saved = self.newest.manifest
        if saved is None:
            return
        rank = dist.get_rank()
        for module in self.plan.layout.modules_on_rank(rank):
            file = same_place(saved, facts, module, rank)
            if file is not None:
                load_random_state(self.newest.path / file, platform)
                continue
            prefix = self.plan.graph.rng_prefixes[module]
            seed = self.plan.recipe.train.seed
            seed_module(seed, prefix, topology.groups[module], saved.iteration)
