"""Recipes that come in the package, found by name."""

from __future__ import annotations

from pathlib import Path

from mimo_core.plugins.discovery import DISTRIBUTION

FOLDER = Path(__file__).parent
DEMO = "demo"
"""What runs where no recipe is named."""


def distributions() -> list[str]:
    """What to install so that the demo runs: the distributions of its plugins."""
    from mimo_core.recipe.loader import load_recipe

    recipe = load_recipe(find(DEMO)).recipe
    plugins = [module.plugin for module in recipe.modules.values()]
    return [DISTRIBUTION + name for name in dict.fromkeys([*plugins, recipe.data.plugin])]


def names() -> list[str]:
    """Names of the package's recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find(recipe: Path | str) -> Path:
    """The file of a recipe: the path given, or the package's recipe of that name."""
    path = Path(recipe)
    return FOLDER / f"{recipe}.yaml" if not path.is_file() and str(recipe) in names() else path
