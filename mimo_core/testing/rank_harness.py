"""One rank of the kit: modules as a run builds them, and the checks that look at them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import attrs
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mimo_core.checkpoint.keys import module_prefix
from mimo_core.contract import (
    LANGUAGE,
    EncoderSpec,
    FreezePart,
    Grid,
    ModuleConfig,
    ModuleDescription,
    Sample,
)
from mimo_core.data.microbatch_dataset import BatchBuilderContext
from mimo_core.data.sequence_builder import SequenceBuilder
from mimo_core.distributed.process_groups import Topology, build_topology
from mimo_core.model.builder import BuildConfig, Builder
from mimo_core.model.embedding_merge import placeholder_indices
from mimo_core.model.mimo_model import RankMimoModel
from mimo_core.model.moe.routers import PADDING
from mimo_core.model.packing import packing_kwargs
from mimo_core.model.platform_config import drop_unsupported_fields
from mimo_core.planning.model_graph import Graph
from mimo_core.platforms.base import RankPlatform
from mimo_core.testing.checks import CHECKS
from mimo_core.testing.conformance_case import Subject
from mimo_core.testing.fixtures import Bench
from mimo_core.testing.rank_results import Progress
from mimo_core.weights.load import sharded_tensors


@attrs.frozen(kw_only=True)
class Built:
    """A recipe of the bench with its module on this rank, built as in a run."""

    name: str
    """Of the module under test."""
    graph: Graph
    topology: Topology
    parts: Any
    """What its plugin gave."""
    model: RankMimoModel
    bench: Bench
    platform: RankPlatform
    random_state: Tensor
    """Of torch's default generator, when the module had been built."""

    @property
    def module(self) -> ModuleConfig:
        return self.graph.modules[self.name]

    @property
    def described(self) -> ModuleDescription:
        return self.graph.descriptions[self.name]

    @property
    def groups(self) -> Any:
        """The module's process groups."""
        return self.topology.groups[self.name]

    @property
    def bare(self) -> nn.Module:
        """The module without wrappers."""
        return self.model.bare(self.name)

    def by_part(self) -> dict[FreezePart, nn.Module]:
        """The module's parts by the words of ``freeze``."""
        words: tuple[FreezePart, ...] = ("encoder", "projector", "language")
        found = {word: self.model.part(self.name, word) for word in words}
        return {word: part for word, part in found.items() if part is not None}

    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.bare.named_parameters())

    def state(self) -> dict[str, Any]:
        """Its part of the sharded state dict."""
        whole = self.model.sharded_state_dict()
        prefix = module_prefix(self.name)
        return {key: value for key, value in whole.items() if key.startswith(prefix)}

    def sharded(self) -> list[Any]:
        """Its sharded tensors."""
        return list(sharded_tensors(self.state()))

    def samples(self) -> list[Sample]:
        """What the subject gives it."""
        return self.bench.inner.samples(self.described.modality)

    def provide(
        self, samples: Sequence[Sample], *, training: bool = False, first_stage: bool = True
    ) -> dict[str, Any] | None:
        """The module's batch of these samples, as its plugin's ``provide_batch`` makes it."""
        length = self.graph.modules[LANGUAGE].train.sequence_length
        context = BatchBuilderContext(
            training=training,
            first_stage=first_stage,
            samples=samples,
            places=range(len(samples)),
            counted=[True] * len(samples),
            encoder=None if self.module.is_language else self.name,
            seed=1234,
            builder=SequenceBuilder(graph=self.graph, length=length, broken="skip"),
        )
        batch: dict[str, Any] | None = self.bench.host.call_hook(
            "provide_batch",
            self.module.plugin,
            module=self.module,
            samples=samples,
            context=context,
        )
        return batch

    def encode(self, batch: Mapping[str, Any] | None) -> Tensor:
        """Rows ``[N, H]`` of an encoder."""
        return self.model.encode(self.name, None if batch is None else self.on_device(batch))

    def logits(self, batch: Mapping[str, Any], rows: Tensor | None = None) -> Tensor:
        """Logits ``[B, S, V / tp]`` of the language model."""
        given = self.on_device(batch)
        lengths = given.pop("lengths", None)
        padding = given.pop(PADDING, None)
        packing = None
        if lengths is not None:
            packing = packing_kwargs(lengths.cpu(), self.platform.device)
        travelled, places = {}, {}
        if rows is not None:
            encoder = self.graph.encoders[0]
            counts = {encoder: [len(rows)]}
            travelled = {encoder: rows}
            places = placeholder_indices(batch["input_ids"], self.model.special_token_ids, counts)
        output = self.model.logits(
            given, packing, rows=travelled, places=self.on_device(places), padding=padding
        )
        assert isinstance(output, Tensor)
        return output

    def output(self, batch: Mapping[str, Any]) -> Tensor:
        """Rows of an encoder, or the losses ``[B, S]`` of the language model."""
        if not self.module.is_language:
            return self.encode(batch)
        return self.model.losses(self.logits(batch), self.on_device(batch)["labels"])

    def on_device(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Its tensors where the model is."""
        device = self.platform.device
        return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}


Topologies = dict[tuple[tuple[str, Grid], ...], Topology]
"""By the grids of all modules."""


@dataclass(kw_only=True)
class _Recorded(BuildConfig):
    """Remembers the random states in which modules were left."""

    states: dict[str, Tensor] = field(default_factory=dict)

    @contextmanager
    def building(self, name: str) -> Iterator[None]:
        with super().building(name):
            yield
            self.states[name] = torch.get_rng_state()


class Rig:
    """Builds the module of one subject on this rank."""

    def __init__(self, subject: Subject, platform: RankPlatform, topologies: Topologies) -> None:
        """
        Args:
            subject: What is tested.
            platform: This rank's machine.
            topologies: Those made so far, for all subjects: process groups cost much.
        """
        self.bench = Bench(subject)
        self.platform = platform
        self._topologies = topologies

    @cached_property
    def whole(self) -> Built:
        """The module on this rank alone, in fp32; whoever changes it builds another."""
        return self.build()

    def build(
        self, *, seed: int = 1234, grid: Mapping[str, int] | None = None, **recipe: Any
    ) -> Built:
        """Build the module anew. Called by all ranks with the same arguments.

        Args:
            seed: Of the run.
            grid: Parallel sizes; by default a copy on every rank.
            recipe: Further arguments of :meth:`Bench.recipe`.
        """
        sizes = dict(grid or {"dp": dist.get_world_size()})
        graph = self.bench.graph(seed=seed, grid=sizes, **recipe)
        name = self.bench.module_name
        topology = self._topology(graph)
        config = _Recorded(
            host=self.bench.host, graph=graph, topology=topology, platform=self.platform, seed=seed
        )
        (model,) = Builder(config).build_distributed_models(
            topology.collection, wrap_with_ddp=False
        )
        return Built(
            name=name,
            graph=graph,
            topology=topology,
            parts=config.submodules[name],
            model=model,
            bench=self.bench,
            platform=self.platform,
            random_state=config.states[name],
        )

    def outside(self) -> EncoderSpec | Any:
        """What the plugin gives on a rank outside the module's grid."""
        module, _ = self.bench.module()
        module = drop_unsupported_fields(module, self.platform)
        return self.bench.host.call_hook(
            "build_submodule", module.plugin, module=module, groups=None, platform=self.platform
        )

    def _topology(self, graph: Graph) -> Topology:
        """Groups of all modules: the partner is on rank 0 alone."""
        grids = {name: module.grid for name, module in graph.modules.items()}
        key = tuple(grids.items())
        if key not in self._topologies:
            first = dict.fromkeys(grids, 0)
            self._topologies[key] = build_topology(grids, first, self.platform.backend)
        return self._topologies[key]


def run(platform: RankPlatform, file: str, pairs: list[list[str]], folder: str) -> int:
    """Run checks of some classes of a file. Called by every rank.

    Args:
        file: Of the classes.
        pairs: Qualified name of a class, name of a check.
        folder: Where each rank tells what it found.
    """
    progress = Progress(Path(folder), dist.get_rank(), dist.get_world_size())
    checks = {check.name: check for check in CHECKS}
    module = _imported(file)
    topologies: Topologies = {}
    for name, group in groupby(pairs, key=itemgetter(0)):
        subject: Any = module
        for word in name.split("."):
            subject = getattr(subject, word)
        rig = Rig(subject(), platform, topologies)
        for _, check in group:
            progress.run(name, checks[check], rig)
    return 0


def _imported(file: str) -> Any:
    sys.path.insert(0, str(Path(file).parent))
    spec = importlib.util.spec_from_file_location("conformance_subjects", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
