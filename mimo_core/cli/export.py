"""``mimo export``: from what a person names to a checkpoint, its recipe and its modules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mimo_core.errors import MimoError, suggestion
from mimo_core.graph import build_graph
from mimo_core.plugins import Host
from mimo_core.recipe import load_recipe
from mimo_core.run_folder import RunFolder, latest_checkpoint
from mimo_core.weight_map import WeightMap
from mimo_core.weights.beginning import weight_map


def find_checkpoint(given: Path, recipe: Path | None) -> tuple[Path, Path]:
    """The checkpoint folder (``iter_…``), and the recipe that it was saved with.

    Args:
        given: A run folder (its newest checkpoint is meant), a folder of checkpoints, or one.
        recipe: The recipe, where the checkpoint is not below its run folder.

    Raises:
        MimoError: there is no checkpoint, or no recipe.
    """
    if not given.is_dir():
        raise MimoError(f"{given}: there is no such folder in {Path.cwd()}")
    folder = given
    if not (given / ".metadata").exists():
        run = RunFolder(given)
        directory = None
        if run.recipe.exists():
            directory = load_recipe(run.recipe).recipe.checkpoint.directory
        inner = run.checkpoints(directory)
        checkpoints = inner if inner.is_dir() else given
        newest = latest_checkpoint(checkpoints)
        if newest is None:
            raise MimoError(f"{given} holds no checkpoint")
        folder = checkpoints / f"iter_{newest:07d}"
    if recipe is None:
        places = [RunFolder(place).recipe for place in (given, *folder.absolute().parents[:2])]
        recipe = next((place for place in places if place.exists()), None)
        if recipe is None:
            raise MimoError(f"there is no recipe.yaml beside {folder}; give one with --recipe")
    return folder, recipe


def modules_to_write(
    recipe: Path, wanted: Sequence[str], disabled: Sequence[str]
) -> dict[str, WeightMap]:
    """How the modules are named in a directory; all of the recipe where none is named.

    Raises:
        MimoError: the recipe has no such module, or its plugin tells no names.
    """
    host = Host.discover(disabled)
    graph = build_graph(load_recipe(recipe), host)
    for name in wanted:
        if name not in graph.modules:
            raise MimoError(
                f"{recipe} has no module {name!r}.{suggestion(name, graph.modules)} Modules: "
                f"{', '.join(graph.modules)}"
            )
    modules = [module for name, module in graph.modules.items() if not wanted or name in wanted]
    for module in modules:
        if not host.has("weight_map", module.plugin):
            raise MimoError(
                f"plugin {module.plugin!r} of module {module.name!r} does not say how its weights "
                "are named (weight_map); name the other modules with --module"
            )
    return {module.name: weight_map(host, module) for module in modules}
