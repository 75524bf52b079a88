"""A recipe file and the command line's overrides, into a :class:`Recipe` that knows its places."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import yaml

from mimo_core.errors import MimoError, Problem, RecipeError, suggestion
from mimo_core.recipe import builtin, yaml_source
from mimo_core.recipe.converter import plain, structure
from mimo_core.recipe.empty import empty_texts
from mimo_core.recipe.module_names import module_names
from mimo_core.recipe.schema import Recipe
from mimo_core.utils.regular_files import read_bytes


@attrs.frozen(kw_only=True)
class LoadedRecipe:
    """A recipe, and where each of its keys was written."""

    recipe: Recipe
    places: yaml_source.SourceMap

    def placed[E: MimoError](self, error: E) -> E:
        """The error, with the place of its keys before each message."""
        return error.of(map(self.places.placed, error.problems))

    def error(self, problems: Iterable[Problem]) -> RecipeError:
        """All problems in one error, a line each, in the order of the file."""
        return _error(self.places, problems)


OptionsClass = Callable[[str], type | None]
"""The options class of a plugin by the plugin's name, if it is known."""


def load_recipe(
    source: Path | str, overrides: Sequence[str] = (), options_class: OptionsClass | None = None
) -> LoadedRecipe:
    """Reads a recipe file.

    Args:
        source: The file.
        overrides: ``key.path=value``; later ones win.
        options_class: Where the recipe holds mistakes, those in options of plugins are told too.

    Raises:
        RecipeError: The file cannot be read, or holds mistakes: all of them, a line each.
    """
    path = Path(source)
    try:
        text = read_bytes(path, yaml_source.MOST_BYTES).decode("utf-8")
    except FileNotFoundError:
        raise RecipeError(_missing(path), code="recipe.not-found", file=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else f"not UTF-8 text ({error})"
        message = f"{source}: cannot read the recipe: {said}"
        raise RecipeError(message, code="recipe.unreadable", file=str(path)) from error
    return load_text(text, str(source), overrides, options_class)


def load_text(
    text: str,
    source: str,
    overrides: Sequence[str] = (),
    options_class: OptionsClass | None = None,
) -> LoadedRecipe:
    """As :func:`load_recipe`, of a YAML text; ``source`` names it in messages."""
    values, places = yaml_source.read(text, source)
    for words in overrides:
        yaml_source.apply_override(words, values, places)
    recipe, problems = structure(Recipe, values)
    if recipe is None:
        modules = yaml_source.keys(values.get("modules"))
        if "modules" in values:
            names = [
                attrs.evolve(problem, path=("modules", *problem.path))
                for problem in module_names(modules)
            ]
            problems += [problem for problem in names if problem not in problems]
        if options_class is not None:
            problems += _options_problems(values, options_class)
        raise _error(places, [_of_no_module(problem, modules, places) for problem in problems])
    if empty := list(empty_texts(recipe)):
        raise _error(places, empty)
    return LoadedRecipe(recipe=recipe, places=places)


def structure_options[T](
    loaded: LoadedRecipe, path: yaml_source.Path, cls: type[T], values: Mapping[str, Any]
) -> T:
    """A plugin's options class from the recipe's values at ``path``.

    Raises:
        RecipeError: Values that do not fit ``cls``, with their places.
    """
    options, problems = structure(cls, values, path)
    if options is not None:
        problems = list(empty_texts(options, path))
    if options is None or problems:
        raise loaded.error(problems)
    return options


def dump(recipe: Recipe) -> str:
    """The recipe as YAML, every default written out; loading it gives an equal recipe."""
    text: str = yaml.dump(
        plain(recipe), Dumper=yaml_source.Dumper, sort_keys=False, allow_unicode=True, width=100
    )
    return text


def _error(places: yaml_source.SourceMap, problems: Iterable[Problem]) -> RecipeError:
    ordered = sorted(problems, key=lambda problem: places.order(problem.path))
    return RecipeError.of(map(places.placed, ordered))


def _missing(path: Path) -> str:
    """That there is no such file; a bare name may have meant a recipe of the package."""
    known = [other.name for other in path.parent.glob("*.y*ml")]
    where = f"in {path.parent.resolve()}"
    if path.name == str(path):
        known += builtin.names()
        where += f", nor in the package ({', '.join(builtin.names())})"
    return f"{path}: there is no such recipe {where}.{suggestion(path.name, known)}".rstrip(".")


def _options_problems(recipe: Mapping[str, Any], options_class: OptionsClass) -> Iterator[Problem]:
    """Problems in the options of plugins, of a recipe that has others already."""
    uses: dict[tuple[str, ...], Any] = {("data",): recipe.get("data")}
    for name in yaml_source.keys(recipe.get("modules")):
        uses["modules", name] = recipe["modules"][name]
    for path, use in uses.items():
        plugin = use.get("plugin") if isinstance(use, Mapping) else None
        cls = options_class(plugin) if isinstance(plugin, str) else None
        if cls is not None and isinstance(use.get("options", {}), Mapping):
            yield from structure(cls, use.get("options", {}), (*path, "options"))[1]
        for name in yaml_source.keys(use.get("wrappers")) if isinstance(use, Mapping) else ():
            cls, values = options_class(name), use["wrappers"][name]
            if cls is not None and isinstance(values, Mapping):
                yield from structure(cls, values, (*path, "wrappers", name))[1]


def _of_no_module(
    problem: Problem, modules: Sequence[str], places: yaml_source.SourceMap
) -> Problem:
    """A module that only an override names, and without its plugin, is most likely misspelt."""
    match problem.path:
        case ("modules", str(name), "plugin") if places.is_made_up(("modules", name)):
            others = [other for other in modules if other != name]
            return Problem(
                f"there is no module {name!r}.{suggestion(name, others)} Modules: "
                f"{', '.join(others)}; for a new one set modules.{name}.plugin too",
                "recipe.unknown-module",
                problem.path[:2],
                {"name": name, "modules": tuple(others)},
            )
    return problem
