"""A model on a grid, and its gradients; imports megatron, so only ranks import it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from gpt_modules import language_module
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from megatron.core.transformer.spec_utils import build_module
from mimo_plugin_gpt import plugin
from torch import Tensor, nn

from mimo_core.contract import Grid
from mimo_core.distributed.process_groups import build_topology
from mimo_core.testing.weights import read_parts


@cache
def _groups(grid: Grid, backend: str) -> ProcessGroupCollection:
    """Made once for each grid: making them takes longer than all else."""
    topology = build_topology({"language": grid}, {"language": 0}, backend)
    return topology.groups["language"]


class Built:
    """A model on a grid that begins at world rank 0."""

    def __init__(
        self, platform: Any, grid: Grid, megatron: dict[str, Any] | None = None, **options: Any
    ) -> None:
        self.module = language_module(grid, megatron, **options)
        self.groups = _groups(grid, platform.backend)
        if parallel_state._GLOBAL_MEMORY_BUFFER is None:
            parallel_state._set_global_memory_buffer()
        model_parallel_cuda_manual_seed(
            7,
            tp_rank=self.groups.tp.rank(),
            ep_rank=self.groups.ep.rank(),
            etp_rank=self.groups.expt_tp.rank(),
            force_reset_rng=True,
        )
        self.model: nn.Module = build_module(
            plugin.build_submodule(self.module, self.groups, platform)
        )

    @property
    def parts(self) -> Any:
        return {"language": self.model}

    def read(self, directory: Path) -> None:
        """This rank's part of a directory's weights."""
        weights = plugin.param_mappings(self.module)
        read_parts(self.module, weights, self.parts, self.groups, directory)

    def logits(self, ids: Tensor, packed: Any = None, **options: Any) -> Tensor:
        """``[B, S / cp, V / tp]``; hidden states on a stage before the last."""
        positions = torch.arange(ids.shape[1]).expand_as(ids)
        result: Tensor = self.model(ids, positions, None, packed_seq_params=packed, **options)
        return result

    def sum_gradients(self) -> None:
        """Add up what each rank has of a gradient, as a run does."""
        for parameter in self.model.parameters():
            assert parameter.grad is not None
            if getattr(parameter, "sequence_parallel", False):
                dist.all_reduce(parameter.grad, group=self.groups.tp)
            dense = getattr(parameter, "allreduce", True)
            group = self.groups.dp_cp if dense else self.groups.expt_dp
            dist.all_reduce(parameter.grad, group=group)


def difference(actual: Tensor, expected: Tensor) -> float:
    """Largest, relative to the largest expected."""
    return ((actual - expected).abs().max() / expected.abs().max()).item()
