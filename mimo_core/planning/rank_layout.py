"""Which ranks each module has: all grids over the world."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs

from mimo_core.contract import Grid
from mimo_core.errors import LayoutError

DENSE_AXES = ("tp", "cp", "dp", "pp")
"""Dimensions of a grid's dense view, fastest first."""
Kind = Literal["non_colocated", "colocated"]
COLOCATED_LIMITATION = (
    "on several ranks megatron-core 0.19 takes pp 1, cp 1 and even parts alone "
    "(models/mimo/comm/colocated_communicator.py); use placement: non_colocated there"
)
"""Why a colocated layout has one rank."""


@attrs.frozen(kw_only=True)
class Layout:
    """Grids over ranks ``0 .. world_size - 1``; make one with :func:`plan_layout`."""

    kind: Kind
    world_size: int
    grids: dict[str, Grid]
    """Grids by module, in the order of the recipe."""
    rank_offsets: dict[str, int]
    """World rank of each module's first rank."""

    def ranks(self, module: str) -> range:
        """The module's world ranks."""
        first = self.rank_offsets[module]
        return range(first, first + self.grids[module].size)

    def modules_on_rank(self, rank: int) -> tuple[str, ...]:
        """The modules on a rank: one, or all of them when colocated."""
        return tuple(module for module in self.grids if rank in self.ranks(module))

    def module_of(self, rank: int) -> str:
        """The one module on a rank."""
        modules = self.modules_on_rank(rank)
        assert len(modules) == 1, f"rank {rank} has modules {modules}"
        return modules[0]

    def coordinates(self, rank: int, module: str) -> dict[str, int]:
        """Where a rank stands in the dense view of a module's grid."""
        assert rank in self.ranks(module), f"rank {rank} is not one of {module}"
        rest = rank - self.rank_offsets[module]
        found = {}
        for name in DENSE_AXES:
            rest, found[name] = divmod(rest, getattr(self.grids[module], name))
        return found

    def rank_at(self, module: str, *, tp: int = 0, cp: int = 0, dp: int = 0, pp: int = 0) -> int:
        """The world rank at these coordinates of the module's dense view."""
        rank, stride = self.rank_offsets[module], 1
        for name, index in zip(DENSE_AXES, (tp, cp, dp, pp), strict=True):
            size = getattr(self.grids[module], name)
            assert 0 <= index < size, f"{module} has {name} {size}, not index {index}"
            rank, stride = rank + index * stride, stride * size
        return rank

    def rank_label(self, rank: int) -> str:
        """How messages name a rank: ``rank 3 (vision, dp 1)``."""
        modules = self.modules_on_rank(rank)
        if len(modules) != 1:
            return f"rank {rank} ({', '.join(modules)})"
        grid, at = self.grids[modules[0]], self.coordinates(rank, modules[0])
        parts = [f"{name} {at[name]}" for name in DENSE_AXES if getattr(grid, name) > 1]
        return f"rank {rank} ({', '.join((*modules, *parts))})"


def sample_slice(microbatch: int, dp: int, dp_rank: int) -> tuple[int, int]:
    """Samples ``[begin, end)`` of a microbatch that one data-parallel rank holds."""
    share = microbatch // dp
    return dp_rank * share, (dp_rank + 1) * share


def plan_layout(
    grids: Mapping[str, Grid], kind: Kind = "non_colocated", world_size: int | None = None
) -> Layout:
    """Lays the grids out one after the other, or where their ``rank_offset`` says.

    Args:
        grids: Grids by module.
        kind: ``non_colocated`` tiles the world; ``colocated`` puts all modules on its one rank.
        world_size: Ranks that were started, if any were yet.

    Raises:
        LayoutError: The grids leave a hole, overlap, do not fit ``world_size``, or the expert
            view of one does not fit its dense view.
    """
    for module, grid in grids.items():
        _check_expert_view(module, grid)
    if kind == "colocated":
        return _colocated(grids, world_size)
    rank_offsets, following = {}, 0
    for module, grid in grids.items():
        rank_offsets[module] = following if grid.rank_offset is None else grid.rank_offset
        following = rank_offsets[module] + grid.size
    layout = Layout(
        kind=kind,
        world_size=max(rank_offsets[module] + grid.size for module, grid in grids.items()),
        grids=dict(grids),
        rank_offsets=rank_offsets,
    )
    _check_tiling(layout)
    if world_size is not None and world_size != layout.world_size:
        raise LayoutError(
            f"the recipe needs {layout.world_size} ranks, but {world_size} were started. Start "
            f"{layout.world_size} (torchrun: nodes x --nproc-per-node = {layout.world_size}), or "
            f"change the grids:\n{_listing(layout)}",
            ("modules",),
            code="layout.world-size",
            needed=layout.world_size,
            started=world_size,
        )
    return layout


def _colocated(grids: Mapping[str, Grid], world_size: int | None) -> Layout:
    large = [module for module, grid in grids.items() if grid.size > 1]
    if large:
        raise LayoutError(
            f"colocated puts all modules on one rank, but {large[0]} has "
            f"{format_grid(grids[large[0]])}; {COLOCATED_LIMITATION}",
            ("placement",),
            code="layout.colocated",
            module=large[0],
        )
    if world_size not in (None, 1):
        raise LayoutError(
            f"colocated puts all modules on one rank, but {world_size} were started; "
            f"{COLOCATED_LIMITATION}",
            ("placement",),
            code="layout.world-size",
            needed=1,
            started=world_size,
        )
    elsewhere = [module for module, grid in grids.items() if grid.rank_offset]
    if elsewhere:
        raise LayoutError(
            f"placement colocated has rank 0 only, but {elsewhere[0]} sets rank_offset "
            f"{grids[elsewhere[0]].rank_offset}; leave it out",
            ("modules", elsewhere[0], "grid", "rank_offset"),
            code="layout.colocated",
            module=elsewhere[0],
        )
    return Layout(
        kind="colocated", world_size=1, grids=dict(grids), rank_offsets=dict.fromkeys(grids, 0)
    )


def _check_expert_view(module: str, grid: Grid) -> None:
    dense = grid.tp * grid.cp * grid.dp
    if dense % (grid.etp * grid.ep):
        raise LayoutError(
            f"tp {grid.tp} x cp {grid.cp} x dp {grid.dp} = {dense} ranks of a pipeline "
            f"stage cannot be divided into etp {grid.etp} x ep {grid.ep} = "
            f"{grid.etp * grid.ep}; choose sizes where the second divides the first",
            ("modules", module, "grid", "ep" if grid.ep > 1 else "etp"),
            code="layout.expert-view",
            dense=dense,
            expert=grid.etp * grid.ep,
        )


def _check_tiling(layout: Layout) -> None:
    wrong: dict[str, str] = {}
    covered, last = 0, ""
    for module in sorted(layout.grids, key=lambda module: (layout.rank_offsets[module], module)):
        ranks = layout.ranks(module)
        if ranks.start > covered:
            wrong[module] = (
                f"{_belong(range(covered, ranks.start))} to no module: set "
                f"modules.{module}.grid.rank_offset={covered} or leave it out"
            )
        elif ranks.start < covered:
            shared = range(ranks.start, min(covered, ranks.stop))
            wrong[module] = (
                f"{_belong(shared)} to both {last} and {module}: set "
                f"modules.{module}.grid.rank_offset={covered} or leave it out"
            )
        if ranks.stop > covered:
            covered, last = ranks.stop, module
    if wrong:
        raise LayoutError(
            f"the grids do not tile ranks 0 .. {layout.world_size - 1}:\n{_listing(layout)}\n"
            + "\n".join(wrong.values()),
            ("modules", next(iter(wrong)), "grid", "rank_offset"),
            code="layout.no-tiling",
            modules=tuple(wrong),
        )


def _listing(layout: Layout) -> str:
    width = max(map(len, layout.grids))
    return "\n".join(
        f"  {module:<{width}}  {_span(layout.ranks(module))}  ({format_grid(grid)})"
        for module, grid in layout.grids.items()
    )


def _span(ranks: range) -> str:
    return f"ranks {ranks[0]}..{ranks[-1]}" if _several(ranks) else f"rank {ranks[0]}"


def _belong(ranks: range) -> str:
    return f"{_span(ranks)} belong{'' if _several(ranks) else 's'}"


def _several(ranks: range) -> bool:
    return ranks.stop - ranks.start > 1  # len() takes no number beyond 64 bits


def format_grid(grid: Grid) -> str:
    """The sizes of a grid that exceed 1: ``tp 2, dp 4``."""
    names = ("tp", "cp", "pp", "dp", "ep", "etp")
    parts = [f"{name} {getattr(grid, name)}" for name in names if getattr(grid, name) > 1]
    return ", ".join(parts) or "one rank"
