"""What a rank measures beside the stock loop: work done, memory held, and what it could do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
import torch.distributed as dist
from rich.table import Table

from mimo_core.contract import LANGUAGE
from mimo_core.data.iterator import MicrobatchIterator
from mimo_core.distributed.process_groups import Topology
from mimo_core.model.mimo_model import RankMimoModel
from mimo_core.optimizer import Optimizer
from mimo_core.planning.flops import SampleFlops
from mimo_core.planning.plan import Plan
from mimo_core.platforms.base import RankPlatform
from mimo_core.reporting.tables import held_table, work_table
from mimo_core.reporting.throughput import figures
from mimo_core.train.datasets import TrainingData
from mimo_core.train.memory_usage import MemoryUsage, held_bytes, peak_resident, planned_bytes


class MetricsCollector:
    """Of one rank; at the end, of all."""

    def __init__(
        self,
        *,
        plan: Plan,
        samples: TrainingData,
        topology: Topology,
        platform: RankPlatform,
        rank: int,
    ) -> None:
        """
        Args:
            plan: What is run.
            samples: Tell their work.
            topology: Groups over which it is added up.
            platform: This rank's machine.
            rank: This world rank.

        Raises:
            MimoError: what the environment says of the machine's peak is no number.
        """
        self._plan = plan
        self._samples = samples
        self._topology = topology
        self._platform = platform
        self._rank = rank
        self._held: MemoryUsage | None = None
        self._peaks = {
            name: platform.peak_flops(plan.graph.modules[name].precision)
            for name in plan.layout.modules_on_rank(rank)
        }

    def after_step(
        self, feed: MicrobatchIterator, model: RankMimoModel, optimizer: Optimizer
    ) -> tuple[SampleFlops, int]:
        """A training step is done.

        Called by all ranks. Returns, on ranks of the language model's last stage, the work of its
        global batch and the number of its samples without a learned token.
        """
        self._held = self._held or held_bytes(model, optimizer)
        taken = feed.take_work()
        if not taken:
            return SampleFlops(flops={}, media={}), 0
        numbers = torch.tensor(
            [*taken, feed.take_without_labels()], dtype=torch.float64, device=self._platform.device
        )
        groups = self._topology.groups[LANGUAGE]
        if groups.dp_cp.size() > 1:
            # Context-parallel ranks have the same samples.
            dist.all_reduce(numbers, group=groups.dp_cp)
            numbers /= groups.cp.size()
        *work, without_labels = numbers.tolist()
        return self._samples.workload.read(work), round(without_labels)

    def of_rank(self) -> dict[str, Any]:
        """What this rank tells at the end."""
        return {
            "peak_memory_bytes": self._platform.peak_memory(),
            "peak_resident_bytes": peak_resident(),
            "peak_flops": self._peaks,
            "held_bytes": None if self._held is None else attrs.asdict(self._held),
            "planned_bytes": attrs.asdict(planned_bytes(self._plan, self._rank)),
        }

    def of_all(
        self, steady: Sequence[Mapping[str, Any]], ranks: Sequence[Mapping[str, Any]]
    ) -> tuple[dict[str, Any], list[Table]]:
        """For the summary, and for the screen.

        Args:
            steady: Iterations that tell the speed; of none nothing is told.
            ranks: What each rank told.
        """
        if not steady:
            return {}, []
        modules, model = figures(self._plan, steady, [rank["peak_flops"] for rank in ranks])
        told = {
            "modules": {name: attrs.asdict(one) for name, one in modules.items()},
            "model": attrs.asdict(model),
        }
        return told, [work_table(self._plan, modules, model), held_table(self._plan, ranks)]
