"""Which modules of a new run begin with weights of a directory; known before a rank is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from mimo_core.contract import Module
from mimo_core.errors import MimoError
from mimo_core.plan import Plan
from mimo_core.plugins import Host
from mimo_core.weight_map import WeightMap
from mimo_core.weights.match import Match, match


def directories(plan: Plan, done: int | None) -> dict[str, Match]:
    """The modules with ``modules.NAME.weights``, and what their directories hold of them.

    Reads the files' headers alone. Asked in the launcher, by the plan and on every rank.

    Args:
        plan: What to run.
        done: Iterations of the checkpoint that the run goes on from; it has all weights then, and
            no directory is looked at.

    Raises:
        RecipeError: a plugin does not say how its weights are named, or a directory does not fit;
            all missing, unexpected and mis-shaped names of all modules, a line each.
    """
    if done is not None:
        return {}
    found: dict[str, Match] = {}
    mistakes = []
    for name, recipe in plan.recipe.modules.items():
        if recipe.weights is None:
            continue
        path = ("modules", name, "weights")
        module = plan.graph.modules[name]
        if not plan.host.has("weight_map", module.plugin):
            said = f"plugin {module.plugin!r} does not say how its weights are named (weight_map)"
            mistakes.append((path, f"{said}; leave it out"))
            continue
        names = weight_map(plan.host, module)
        try:
            directory = names.locate(recipe.weights)
            held = match(names, directory)
        except MimoError as error:
            mistakes.append((path, str(error)))
            continue
        mistakes += [(path, f"{directory} {said}") for said in held.mistakes]
        found[name] = held
    if mistakes:
        raise plan.loaded.error(mistakes)
    return found


def weight_map(host: Host, module: Module) -> WeightMap:
    """The module's map, as its plugin gives it."""
    answer: WeightMap = host.ask("weight_map", module.plugin, module=module)
    return answer


def notes(found: Mapping[str, Match]) -> Iterator[str]:
    """What a person should know of them."""
    for name, held in found.items():
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
        for what, count in unread.items():
            yield f"not read in {directory}: {what}, {count} tensor{'s' if count > 1 else ''}"
