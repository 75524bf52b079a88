"""Process groups of every module: one ``HyperCommGrid`` with a dense and an expert view each."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.hyper_comm_grid import HyperCommGrid
from megatron.core.process_groups_config import (
    MultiModuleProcessGroupCollection,
    ProcessGroupCollection,
)

from mimo_core.contract import LANGUAGE, Grid

EXPERT_VIEW = "expert"
"""The name under which megatron's ``MimoOptimizer`` looks for the expert factorization."""

_DENSE = ["tp", "cp", "dp", "pp"]
_EXPERT = ["expt_tp", "ep", "expt_dp", "pp"]

# Fields of megatron's ProcessGroupCollection and the grid dims that they span.
_DENSE_GROUPS: dict[str, list[str]] = {
    "tp": ["tp"],
    "cp": ["cp"],
    "pp": ["pp"],
    "dp": ["dp"],
    "dp_cp": ["dp", "cp"],
    "tp_cp": ["tp", "cp"],
    "tp_dp_cp": ["tp", "dp", "cp"],
    "mp": ["tp", "pp"],
    "intra_dist_opt": ["tp", "cp", "dp", "pp"],
}
_EXPERT_GROUPS: dict[str, list[str]] = {
    "ep": ["ep"],
    "expt_tp": ["expt_tp"],
    "expt_dp": ["expt_dp"],
    "tp_ep": ["expt_tp", "ep"],
    "tp_ep_pp": ["expt_tp", "ep", "pp"],
}
# Megatron's further names for groups that are the same without their feature.
_ALIASES = {
    "intra_dp_cp": "dp_cp",
    "dp_cp_gtp_remat": "dp_cp",
    "intra_expt_dp": "expt_dp",
    "expt_dp_gtp_remat": "expt_dp",
    "tp_ep_pp_with_egtp_remat": "tp_ep_pp",
}


@attrs.frozen(kw_only=True)
class Topology:
    """All grids, and the groups of the modules on this rank."""

    grids: Mapping[str, HyperCommGrid]
    groups: Mapping[str, ProcessGroupCollection]
    """By module, for the modules on this rank only."""

    @property
    def collection(self) -> MultiModuleProcessGroupCollection:
        """This rank's modules, as the stock loop takes them."""
        return MultiModuleProcessGroupCollection(
            module_pgs=dict(self.groups),
            language_model_module_name=LANGUAGE if LANGUAGE in self.groups else None,
        )


def build_topology(
    grids: Mapping[str, Grid], rank_offsets: Mapping[str, int], backend: str
) -> Topology:
    """Make every module's process groups. Called by all ranks of the world, in the same order.

    Args:
        grids: Parallel sizes by module, in world order.
        rank_offsets: World rank of each module's first rank.
        backend: ``gloo`` or ``nccl``.
    """
    comm_grids: dict[str, HyperCommGrid] = {}
    groups: dict[str, ProcessGroupCollection] = {}
    for name, grid in grids.items():
        comm_grid = _comm_grid(grid, rank_offsets[name], backend)
        comm_grids[name] = comm_grid
        pgs = _create_groups(name, comm_grid)
        embedding = _embedding_groups(name, comm_grid)
        if comm_grid.is_current_rank_in_grid():
            groups[name] = _collection(pgs, embedding)
    _make_memory_buffer()
    return Topology(grids=comm_grids, groups=groups)


def _make_memory_buffer() -> None:
    """Layers share a buffer that only ``initialize_model_parallel`` makes in megatron-core 0.19."""
    if parallel_state._GLOBAL_MEMORY_BUFFER is None:
        parallel_state._set_global_memory_buffer()


def _comm_grid(grid: Grid, rank_offset: int, backend: str) -> HyperCommGrid:
    comm_grid = HyperCommGrid(
        shape=[grid.tp, grid.cp, grid.dp, grid.pp],
        dim_names=_DENSE,
        rank_offset=rank_offset,
        backend=backend,
    )
    expert_dp = grid.tp * grid.cp * grid.dp // (grid.etp * grid.ep)
    comm_grid.register_view(
        EXPERT_VIEW,
        shape=[grid.etp, grid.ep, expert_dp, grid.pp],
        dim_names=_EXPERT,
        shared_dims=["pp"],
    )
    return comm_grid


def _create_groups(name: str, grid: HyperCommGrid) -> dict[str, dist.ProcessGroup | None]:
    pgs: dict[str, dist.ProcessGroup | None] = {}
    for field, dims in _DENSE_GROUPS.items():
        pgs[field] = grid.create_pg(dims, group_desc=f"{name}.{field}")
    for field, dims in _EXPERT_GROUPS.items():
        pgs[field] = grid.create_pg(dims, view=EXPERT_VIEW, group_desc=f"{name}.{field}")
    return pgs


def _embedding_groups(
    name: str, grid: HyperCommGrid
) -> tuple[dist.ProcessGroup | None, dist.ProcessGroup | None]:
    """(word embedding, position embedding) groups of this rank: language model only.

    Word embeddings live on the first and last pipeline stage, position embeddings on the first.
    """
    if name != LANGUAGE:
        return None, None
    word = position = None
    rank = dist.get_rank()
    for stages in grid.get_rank_enum("pp"):
        ends = sorted({stages[0], stages[-1]})
        group = dist.new_group(ends, backend=grid.backend, group_desc=f"{name}.embd")
        word = group if rank in ends else word
        group = dist.new_group(stages[:1], backend=grid.backend, group_desc=f"{name}.pos_embd")
        position = group if rank == stages[0] else position
    return word, position


def _collection(
    pgs: Mapping[str, dist.ProcessGroup | None],
    embedding: tuple[dist.ProcessGroup | None, dist.ProcessGroup | None],
) -> ProcessGroupCollection:
    collection = ProcessGroupCollection(**pgs)
    for alias, field in _ALIASES.items():
        setattr(collection, alias, pgs[field])
    collection.embd, collection.pos_embd = embedding
    return collection
