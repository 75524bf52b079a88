"""A recipe file and the command line's overrides, into a :class:`Recipe` that knows its places."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import yaml

from mimo_core.errors import RecipeError, suggestion
from mimo_core.recipe import packaged, tree
from mimo_core.recipe.empty import empty_texts
from mimo_core.recipe.module_names import module_names
from mimo_core.recipe.schema import Recipe
from mimo_core.recipe.structure import Mistake, plain, structure
from mimo_core.regular_files import read_bytes


@attrs.frozen(kw_only=True)
class LoadedRecipe:
    """A recipe, and where each of its keys was written."""

    recipe: Recipe
    places: tree.Places

    def message(self, path: tree.Path, said: str) -> str:
        """What is wrong, led by the place of the key: ``recipe.yaml:7: train.seed: …``."""
        return self.places.message(path, said)

    def error(self, mistakes: Iterable[Mistake]) -> RecipeError:
        """All mistakes in one error, a line each, in the order of the file."""
        return _error(self.places, mistakes)


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
        text = read_bytes(path, tree.MOST_BYTES).decode("utf-8")
    except FileNotFoundError:
        raise RecipeError(_missing(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else f"not UTF-8 text ({error})"
        raise RecipeError(f"{source}: cannot read the recipe: {said}") from error
    return load_text(text, str(source), overrides, options_class)


def load_text(
    text: str,
    source: str,
    overrides: Sequence[str] = (),
    options_class: OptionsClass | None = None,
) -> LoadedRecipe:
    """As :func:`load_recipe`, of a YAML text; ``source`` names it in messages."""
    values, places = tree.read(text, source)
    for words in overrides:
        tree.apply_override(words, values, places)
    recipe, mistakes = structure(Recipe, values)
    if recipe is None:
        modules = tree.keys(values.get("modules"))
        if "modules" in values:
            names = module_names(modules)
            told = [(("modules", *path), said) for path, said in names]
            mistakes += [mistake for mistake in told if mistake not in mistakes]
        if options_class is not None:
            mistakes += _options_mistakes(values, options_class)
        raise _error(places, [_of_no_module(mistake, modules, places) for mistake in mistakes])
    if empty := list(empty_texts(recipe)):
        raise _error(places, empty)
    return LoadedRecipe(recipe=recipe, places=places)


def structure_options[T](
    loaded: LoadedRecipe, path: tree.Path, cls: type[T], values: Mapping[str, Any]
) -> T:
    """A plugin's options class from the recipe's values at ``path``.

    Raises:
        RecipeError: Values that do not fit ``cls``, with their places.
    """
    options, mistakes = structure(cls, values, path)
    if options is not None:
        mistakes = list(empty_texts(options, path))
    if options is None or mistakes:
        raise loaded.error(mistakes)
    return options


def dump(recipe: Recipe) -> str:
    """The recipe as YAML, every default written out; loading it gives an equal recipe."""
    text: str = yaml.dump(
        plain(recipe), Dumper=tree.Dumper, sort_keys=False, allow_unicode=True, width=100
    )
    return text


def _error(places: tree.Places, mistakes: Iterable[Mistake]) -> RecipeError:
    ordered = sorted(mistakes, key=lambda mistake: places.order(mistake[0]))
    return RecipeError("\n".join(places.message(path, said) for path, said in ordered))


def _missing(path: Path) -> str:
    """That there is no such file; a bare name may have meant a recipe of the package."""
    known = [other.name for other in path.parent.glob("*.y*ml")]
    where = f"in {path.parent.resolve()}"
    if path.name == str(path):
        known += packaged.names()
        where += f", nor in the package ({', '.join(packaged.names())})"
    return f"{path}: there is no such recipe {where}.{suggestion(path.name, known)}".rstrip(".")


def _options_mistakes(recipe: Mapping[str, Any], options_class: OptionsClass) -> Iterator[Mistake]:
    """Mistakes in the options of plugins, of a recipe that has others already."""
    uses: dict[tuple[str, ...], Any] = {("data",): recipe.get("data")}
    for name in tree.keys(recipe.get("modules")):
        uses["modules", name] = recipe["modules"][name]
    for path, use in uses.items():
        plugin = use.get("plugin") if isinstance(use, Mapping) else None
        cls = options_class(plugin) if isinstance(plugin, str) else None
        if cls is not None and isinstance(use.get("options", {}), Mapping):
            yield from structure(cls, use.get("options", {}), (*path, "options"))[1]
        for name in tree.keys(use.get("wrappers")) if isinstance(use, Mapping) else ():
            cls, values = options_class(name), use["wrappers"][name]
            if cls is not None and isinstance(values, Mapping):
                yield from structure(cls, values, (*path, "wrappers", name))[1]


def _of_no_module(mistake: Mistake, modules: Sequence[str], places: tree.Places) -> Mistake:
    """A module that only an override names, and without its plugin, is most likely misspelt."""
    match mistake[0]:
        case ("modules", str(name), "plugin") if places.is_made_up(("modules", name)):
            others = [other for other in modules if other != name]
            return mistake[0][:2], (
                f"there is no module {name!r}.{suggestion(name, others)} Modules: "
                f"{', '.join(others)}; for a new one set modules.{name}.plugin too"
            )
    return mistake
