"""Everything that can be known of a run before a rank starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from mimo_core.contract import LANGUAGE
from mimo_core.errors import MimoError
from mimo_core.planning import sample_preview, sequence_budget
from mimo_core.planning.model_graph import Graph, build_graph
from mimo_core.planning.rank_layout import Layout, plan_layout
from mimo_core.planning.validation import validate
from mimo_core.plugins import Host
from mimo_core.recipe import LoadedRecipe, Recipe, builtin, dump, load_recipe, load_text


@attrs.frozen(kw_only=True)
class Plan:
    """A recipe that can be run, and all that follows from it."""

    loaded: LoadedRecipe
    host: Host
    graph: Graph
    layout: Layout
    preview: tuple[sequence_budget.PositionCounts, ...] = ()
    """Positions of the samples that the dataset's plugin shows."""
    data_notes: tuple[str, ...] = ()
    """What a person should know of the data, a line each."""

    @property
    def recipe(self) -> Recipe:
        return self.loaded.recipe

    @property
    def microbatch(self) -> int:
        """Samples of a microbatch, over all data-parallel ranks of the language model."""
        return self.recipe.train.micro_batch_size * self.layout.grids[LANGUAGE].dp


def make_plan(
    source: Path | str | Recipe,
    overrides: Sequence[str] = (),
    host: Host | None = None,
    disabled: Sequence[str] = (),
    world_size: int | None = None,
) -> Plan:
    """Plugins, recipe, graph, layout, samples: found, built and checked in this order.

    Args:
        source: A recipe file, the name of one that comes in the package, or a recipe made in
            Python.
        overrides: ``key.path=value``, as on the command line.
        host: The plugins; by default those installed, but for the ``disabled`` ones.
        disabled: Names of plugins that must not be imported.
        world_size: Ranks that were started, if any were yet.

    Raises:
        RecipeError: The recipe holds mistakes, or a sample that the dataset's plugin shows does
            not fit.
        PluginError: A plugin is missing, broken or breaks its contract.
        MimoError: A wrapper's options do not fit the weights of its module.
        LayoutError: The grids do not tile the world, or the recipe asks for a layout that is
            refused.
    """
    host = Host.discover(disabled) if host is None else host
    if isinstance(source, Recipe):
        loaded = load_text(dump(source), "recipe", overrides, _options_class(host))
    else:
        loaded = load_recipe(builtin.find(source), overrides, _options_class(host))
    recipe = loaded.recipe
    with _placed(loaded):
        graph = build_graph(loaded, host)
        grids = {name: module.grid for name, module in recipe.modules.items()}
        layout = plan_layout(grids, recipe.placement, world_size)
        validate(loaded, graph)
        _check_wrappers(graph, host)
        cut = recipe.data.overlength == "truncate"
        samples = sample_preview.shown_samples(graph, host)
        preview = sequence_budget.preview(graph, samples, recipe.train.sequence_length, cut=cut)
        notes = sample_preview.data_notes(graph, host)
        sample_preview.check_fed(graph, preview, notes)
    return Plan(
        loaded=loaded,
        host=host,
        graph=graph,
        layout=layout,
        preview=preview,
        data_notes=(*notes, *sample_preview.spelling_notes(graph, samples)),
    )


def _check_wrappers(graph: Graph, host: Host) -> None:
    """Check what wrappers make of their module's weights, whether or not the run reads any.

    A plugin that cannot name the weights of its module leaves the check to the ranks.

    Raises:
        MimoError: a wrapper's options do not fit the weights, such as a name that no weight has.
    """
    for module in graph.modules.values():
        if not module.wrappers or not host.implements("param_mappings", module.plugin):
            continue
        try:
            host.call_hook(
                "param_mappings", module.plugin, module=attrs.evolve(module, wrappers={})
            )
        except MimoError:
            continue
        host.call_hook("param_mappings", module.plugin, module=module)


@contextmanager
def _placed(loaded: LoadedRecipe) -> Iterator[None]:
    """Puts the place in the recipe before the message of an error that names keys."""
    try:
        yield
    except MimoError as error:
        if not error.path or error.problems[0].place:
            raise
        raise loaded.placed(error) from error.__cause__


def _options_class(host: Host) -> Callable[[str], type | None]:
    """The options class of a plugin by its name; ``None`` where there is none to ask."""

    def find(plugin: str) -> type | None:
        if plugin not in host.usable_plugins or not host.implements("options_class", plugin):
            return None
        found: type = host.call_hook("options_class", plugin)
        return found

    return find
