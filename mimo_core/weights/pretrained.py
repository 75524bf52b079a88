"""Which modules of a new run begin with weights of a directory; known before a rank is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from mimo_core.checkpoint.manifest import Manifest
from mimo_core.contract import ModuleConfig
from mimo_core.errors import MimoError, Problem
from mimo_core.planning.plan import Plan
from mimo_core.plugins import Host
from mimo_core.plugins.weight_map import ParamMappings
from mimo_core.weights.compare import DirectoryMatch, match
from mimo_core.weights.frozen_sources import if_moved, origins_of


def directories(
    plan: Plan, done: int | None, saved: Manifest | None = None
) -> dict[str, DirectoryMatch]:
    """The modules that read a directory, and what it holds of them.

    A new run's with ``modules.NAME.pretrained_weights``; and those whose frozen weights are not in
    the checkpoint that a run resumes from or starts with: its weights replace what is read here.

    Reads the files' headers alone. Asked in the launcher, by the plan and on every rank.

    Args:
        plan: What to run.
        done: Iterations of the checkpoint that the run goes on from.
        saved: Of that checkpoint, or of the one that a new run starts with.

    Raises:
        RecipeError: a plugin does not say how its weights are named, or a directory does not fit;
            all missing, unexpected and mis-shaped names of all modules, a line each.
    """
    found: dict[str, DirectoryMatch] = {}
    problems: list[Problem] = []
    again = {origin.module for origin in (origins_of(saved) if saved else ())}
    for name, source in _wanted(plan, done, saved).items():
        path = ("modules", name, "pretrained_weights")
        module = plan.graph.modules[name]
        if not plan.host.implements("param_mappings", module.plugin):
            message = (
                f"plugin {module.plugin!r} does not say how its weights are named (weight_map); "
                "leave it out"
            )
            problems.append(Problem(message, "plugin.missing-hook", path))
            continue
        try:
            names = weight_map(plan.host, module)
            directory = names.locate(source)
            held = match(names, directory)
        except MimoError as error:
            # A plugin's may name the key of the recipe that it is about.
            hint = if_moved(name) if name in again else ""
            problems.append(
                Problem(f"{error.text}{hint}", error.code, error.path or path, values=error.values)
            )
            continue
        problems += [
            Problem(f"{directory} {text}", "weights.mismatch", path) for text in held.mistakes
        ]
        found[name] = held
    if problems:
        raise plan.loaded.error(problems)
    return found


def _wanted(plan: Plan, done: int | None, saved: Manifest | None) -> dict[str, str]:
    """What each module reads, as the recipe has it; of one that was moved, where it is now."""
    given = {
        name: module.pretrained_weights
        for name, module in plan.recipe.modules.items()
        if module.pretrained_weights is not None
    }
    again = {
        origin.module: given.get(origin.module, origin.path)
        for origin in (origins_of(saved) if saved else ())
        if origin.kind == "directory" and origin.module in plan.recipe.modules
    }
    return again if done is not None else given | again


def weight_map(host: Host, module: ModuleConfig) -> ParamMappings:
    """The module's map, as its plugin gives it."""
    answer: ParamMappings = host.call_hook("param_mappings", module.plugin, module=module)
    return answer


def notes(found: Mapping[str, DirectoryMatch], saved: Manifest | None = None) -> Iterator[str]:
    """What a person should know of them.

    Args:
        found: The directories by module.
        saved: As :func:`directories` got it.
    """
    again = [origin.module for origin in (origins_of(saved) if saved else ())]
    for name, held in found.items():
        if name in again:
            yield f"{name} reads weights that do not learn in {held.directory}"
            continue
        taken = ", ".join(held.prefixes)
        fresh = f"; {', '.join(held.fresh)} begins fresh" if held.fresh else ""
        yield f"{name} begins with the weights of {held.directory} ({taken}{fresh})"
    for directory in dict.fromkeys(held.directory for held in found.values()):
        matches = [held for held in found.values() if held.directory == directory]
        unread = Counter[str]()
        for held in matches:
            unread.update(held.unread)
        # Other modules' that none of them has.
        nobody = set.intersection(*(set(held.others) for held in matches))
        unread.update(f"{name.split('.')[0]}.*" for name in sorted(nobody))
        for note in dict.fromkeys(note for held in matches for note in held.notes):
            yield f"{directory}: {note}"
        for what, count in unread.items():
            yield f"not read in {directory}: {what}, {count} tensor{'s' if count > 1 else ''}"
