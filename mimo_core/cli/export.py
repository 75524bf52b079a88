"""``mimo export``: from what a person names to a checkpoint, its recipe and its modules."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from mimo_core.checkpoint.directory import newest
from mimo_core.checkpoint.manifest import MANIFEST, IncompleteCheckpointError, read_manifest
from mimo_core.errors import MimoError, suggestion
from mimo_core.planning.model_graph import build_graph
from mimo_core.plugins import Host
from mimo_core.plugins.weight_map import ParamMappings
from mimo_core.recipe import LoadedRecipe, load_text
from mimo_core.weights.pretrained import weight_map
from mimo_core.weights.warm_start import checkpoints_of

_INCOMPLETE = "checkpoint.incomplete"


def find_checkpoint(given: Path, moved: Sequence[str] = ()) -> tuple[Path, LoadedRecipe]:
    """The checkpoint folder (``iter_…``), and the recipe that its manifest holds.

    Args:
        given: A run folder (its newest checkpoint is meant), a folder of checkpoints, or one.
        moved: ``key.path=place`` of directories that the recipe names and that are elsewhere now.

    Raises:
        MimoError: there is no complete checkpoint, or something else than a place is given.
    """
    if not given.is_dir():
        message = f"{given}: there is no such folder in {Path.cwd()}"
        raise MimoError(message, code="checkpoint.not-found", folder=str(given))
    folder = given
    if not given.name.startswith("iter_"):
        found = newest(checkpoints_of(given)).usable()
        if found.manifest is None:
            message = "\n".join([f"{given} holds no complete checkpoint", *found.told])
            raise MimoError(message, code=_INCOMPLETE, folder=str(given))
        folder = found.path
    try:
        manifest = read_manifest(folder)
    except IncompleteCheckpointError as why:
        message = f"{folder} is no complete checkpoint: {why}"
        raise MimoError(message, code=_INCOMPLETE, folder=str(folder)) from None
    for words in moved:
        _check_place(words, manifest.recipe)
    return folder, load_text(json.dumps(manifest.recipe), str(folder / MANIFEST), moved)


def _check_place(words: str, recipe: Mapping[str, Any]) -> None:
    """Whether an override says where a directory is: a checkpoint is written as it was trained."""
    key = words.partition("=")[0]
    keys = key.split(".")
    held: Any = recipe
    for one in keys:
        held = held.get(one) if isinstance(held, Mapping) else None
    weights = len(keys) == 3 and keys[0] == "modules" and keys[2] == "pretrained_weights"
    option = keys[0] == "modules" and keys[2:3] == ["options"] and isinstance(held, str)
    if "=" not in words or not (weights or option):
        raise MimoError(
            f"{words}: a checkpoint is written as it was trained; given can be where a directory "
            "is now: modules.NAME.pretrained_weights=PLACE, or modules.NAME.options.KEY=PLACE of "
            "an option "
            f"that names one{f' (it says {held!r} there)' if held is not None else ''}",
            code="export.refused-override",
            key=key,
        )


def moved_weights(loaded: LoadedRecipe, moved: Sequence[str]) -> dict[str, str]:
    """Of ``modules.NAME.pretrained_weights=PLACE`` the places by module."""
    keys = [words.partition("=")[0].split(".") for words in moved]
    return {
        name: place
        for _, name, *rest in keys
        if rest == ["pretrained_weights"]
        and (place := loaded.recipe.modules[name].pretrained_weights)
    }


def modules_to_write(
    loaded: LoadedRecipe, wanted: Sequence[str], disabled: Sequence[str]
) -> dict[str, ParamMappings]:
    """How the modules are named in a directory; all of the recipe where none is named.

    Raises:
        MimoError: the recipe has no such module, or its plugin tells no names.
    """
    host = Host.discover(disabled)
    try:
        graph = build_graph(loaded, host)
    except MimoError as error:
        *first, last = error.problems
        message = (
            f"{last.message}\nA directory that was moved since the checkpoint was saved is named "
            "anew: modules.NAME.pretrained_weights=PLACE, modules.NAME.options.KEY=PLACE"
        )
        raise MimoError.of([*first, attrs.evolve(last, message=message)]) from error
    for name in wanted:
        if name not in graph.modules:
            raise MimoError(
                f"the recipe has no module {name!r}.{suggestion(name, graph.modules)} Modules: "
                f"{', '.join(graph.modules)}",
                code="export.unknown-module",
                module=name,
                known=tuple(graph.modules),
            )
    modules = [module for name, module in graph.modules.items() if not wanted or name in wanted]
    for module in modules:
        if not host.implements("param_mappings", module.plugin):
            raise MimoError(
                f"plugin {module.plugin!r} of module {module.name!r} does not say how its weights "
                "are named (weight_map); name the other modules with --module",
                code="plugin.missing-hook",
                plugin=module.plugin,
                module=module.name,
                hook="param_mappings",
            )
    return {module.name: weight_map(host, module) for module in modules}
