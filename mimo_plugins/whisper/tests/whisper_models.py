"""What functions on ranks share: models as the core builds them, batches, differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from megatron.core.transformer.spec_utils import build_module
from mimo_plugin_whisper.plugin import build_submodule

from mimo_core import Grid
from mimo_core.distributed.process_groups import build_topology


def make_groups(grids: dict[str, Grid], platform: Any) -> dict[str, Any]:
    """Process groups by name, every grid from rank 0 on; random states seeded."""
    groups = build_topology(grids, dict.fromkeys(grids, 0), platform.backend).groups
    model_parallel_cuda_manual_seed(7, tp_rank=0, ep_rank=0, etp_rank=0)
    torch.manual_seed(0)
    return dict(groups)


def build_model(module: Any, groups: Any, platform: Any) -> torch.nn.ModuleDict:
    """Tower and projector, as the core builds them."""
    parts = build_submodule(module, groups, platform)
    return torch.nn.ModuleDict(
        {"tower": build_module(parts.tower), "projector": build_module(parts.projector)}
    )


def random_batch(lengths: Sequence[int], bins: int) -> dict[str, Any]:
    """Random frames of windows of these positions, as the tower's forward takes them."""
    generator = torch.Generator().manual_seed(3)
    mels = torch.zeros(len(lengths), bins, 2 * max(lengths))
    for mel, length in zip(mels, lengths, strict=True):
        mel[:, : 2 * length] = torch.randn(bins, 2 * length, generator=generator)
    return {
        "mels": mels,
        "lengths": tuple(lengths),
        "cu_seqlens": torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32),
    }


def sharded_state(model: torch.nn.ModuleDict, groups: Any) -> dict[str, Any]:
    sharded: dict[str, Any] = {}
    for name, part in model.items():
        metadata = {"dp_cp_group": groups.dp_cp}
        sharded |= part.sharded_state_dict(prefix=f"{name}.", metadata=metadata)
    return sharded


def largest_gap(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).abs().max())


def parts_of(model: torch.nn.ModuleDict) -> dict[Any, torch.nn.Module]:
    """Tower and projector by the words of ``freeze``."""
    return {"encoder": model["tower"], "projector": model["projector"]}
