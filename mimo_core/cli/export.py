"""``mimo export``: from what a person names to a checkpoint, its recipe and its modules."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mimo_core.checkpoints import MANIFEST, Incomplete, newest, read_manifest
from mimo_core.errors import MimoError, suggestion
from mimo_core.graph import build_graph
from mimo_core.plugins import Host
from mimo_core.recipe import LoadedRecipe, load_text
from mimo_core.train.starting import checkpoints_of
from mimo_core.weight_map import WeightMap
from mimo_core.weights.beginning import weight_map


def find_checkpoint(given: Path) -> tuple[Path, LoadedRecipe]:
    """The checkpoint folder (``iter_…``), and the recipe that its manifest holds.

    Args:
        given: A run folder (its newest checkpoint is meant), a folder of checkpoints, or one.

    Raises:
        MimoError: there is no complete checkpoint.
    """
    if not given.is_dir():
        raise MimoError(f"{given}: there is no such folder in {Path.cwd()}")
    folder = given
    if not given.name.startswith("iter_"):
        found = newest(checkpoints_of(given))
        if found.manifest is None:
            raise MimoError("\n".join([f"{given} holds no complete checkpoint", *found.told]))
        folder = found.path
    try:
        manifest = read_manifest(folder)
    except Incomplete as why:
        raise MimoError(f"{folder} is no complete checkpoint: {why}") from None
    return folder, load_text(json.dumps(manifest.recipe), str(folder / MANIFEST))


def modules_to_write(
    loaded: LoadedRecipe, wanted: Sequence[str], disabled: Sequence[str]
) -> dict[str, WeightMap]:
    """How the modules are named in a directory; all of the recipe where none is named.

    Raises:
        MimoError: the recipe has no such module, or its plugin tells no names.
    """
    host = Host.discover(disabled)
    graph = build_graph(loaded, host)
    for name in wanted:
        if name not in graph.modules:
            raise MimoError(
                f"the recipe has no module {name!r}.{suggestion(name, graph.modules)} Modules: "
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
