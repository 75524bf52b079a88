"""Recipes that come in the package, found by name."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "recipes"
DEMO = "demo"
"""What runs where no recipe is named."""


def names() -> list[str]:
    """Names of the package's recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find(recipe: Path | str) -> Path:
    """The file of a recipe: the path given, or the package's recipe of that name."""
    path = Path(recipe)
    return FOLDER / f"{recipe}.yaml" if not path.is_file() and str(recipe) in names() else path
