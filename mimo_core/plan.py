"""Everything that can be known of a run before a rank starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs

from mimo_core.errors import LayoutError
from mimo_core.graph import Graph, build_graph
from mimo_core.layout import Layout, plan_layout
from mimo_core.plugins import Host
from mimo_core.recipe import LoadedRecipe, Recipe, dump, load_recipe, load_text, packaged
from mimo_core.validate import validate


@attrs.frozen(kw_only=True)
class Plan:
    """A recipe that can be run, and all that follows from it."""

    loaded: LoadedRecipe
    host: Host
    graph: Graph
    layout: Layout

    @property
    def recipe(self) -> Recipe:
        return self.loaded.recipe


def make_plan(
    source: Path | str | Recipe,
    overrides: Sequence[str] = (),
    host: Host | None = None,
    disabled: Sequence[str] = (),
    world_size: int | None = None,
) -> Plan:
    """Recipe, plugins, graph, layout: read, built and checked in this order.

    Args:
        source: A recipe file, the name of one that comes in the package, or a recipe made in
            Python.
        overrides: ``key.path=value``, as on the command line.
        host: The plugins; by default those installed, but for the ``disabled`` ones.
        disabled: Names of plugins that must not be imported.
        world_size: Ranks that were started, if any were yet.

    Raises:
        RecipeError: The recipe holds mistakes.
        PluginError: A plugin is missing, broken or breaks its contract.
        LayoutError: The grids do not tile the world.
    """
    if isinstance(source, Recipe):
        loaded = load_text(dump(source), "recipe", overrides)
    else:
        loaded = load_recipe(packaged.find(source), overrides)
    host = Host.discover(disabled) if host is None else host
    graph = build_graph(loaded, host)
    grids = {name: module.grid for name, module in loaded.recipe.modules.items()}
    layout = plan_layout(grids, loaded.recipe.layout, world_size)
    if layout.kind == "colocated":
        raise LayoutError(
            loaded.message(
                ("layout",),
                "colocated is not built yet: the engine runs one module a rank; use "
                "disjoint, or leave it out",
            )
        )
    validate(loaded, graph)
    return Plan(loaded=loaded, host=host, graph=graph, layout=layout)
