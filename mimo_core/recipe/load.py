"""A recipe file and the command line's overrides, into a :class:`Recipe` that knows its places."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import yaml

from mimo_core.errors import RecipeError, suggestion
from mimo_core.recipe import rules, tree
from mimo_core.recipe.schema import Recipe
from mimo_core.recipe.structure import Mistake, plain, structure


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


def load_recipe(source: Path | str, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Reads a recipe file; ``overrides`` are ``key.path=value``, later ones win.

    Raises:
        RecipeError: The file cannot be read, or holds mistakes: all of them, a line each.
    """
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        beside = [other.name for other in path.parent.glob("*.y*ml")]
        raise RecipeError(
            f"{source}: there is no such recipe in {path.parent.resolve()}."
            f"{suggestion(path.name, beside)}".rstrip(".")
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else f"not UTF-8 text ({error})"
        raise RecipeError(f"{source}: cannot read the recipe: {said}") from error
    return load_text(text, str(source), overrides)


def load_text(text: str, source: str, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """As :func:`load_recipe`, of a YAML text; ``source`` names it in messages."""
    values, places = tree.read(text, source)
    for words in overrides:
        tree.apply_override(words, values, places)
    recipe, mistakes = structure(Recipe, values)
    if recipe is None:
        if "modules" in values:
            names = rules.module_names(tree.keys(values["modules"]))
            told = [(("modules", *path), said) for path, said in names]
            mistakes += [mistake for mistake in told if mistake not in mistakes]
        raise _error(places, mistakes)
    return LoadedRecipe(recipe=recipe, places=places)


def structure_options[T](
    loaded: LoadedRecipe, path: tree.Path, cls: type[T], values: Mapping[str, Any]
) -> T:
    """A plugin's options class from the recipe's values at ``path``.

    Raises:
        RecipeError: Values that do not fit ``cls``, with their places.
    """
    options, mistakes = structure(cls, values, path)
    if options is None:
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
