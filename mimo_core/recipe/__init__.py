"""The recipe: a YAML file of a run, read into frozen attrs classes."""

from mimo_core.recipe.loader import LoadedRecipe, dump, load_recipe, load_text, structure_options
from mimo_core.recipe.schema import (
    CheckpointRecipe,
    DataRecipe,
    HeartbeatRecipe,
    ModuleRecipe,
    Placement,
    ProfileRecipe,
    Recipe,
    TokenizerRecipe,
    ValidationRecipe,
)

__all__ = [
    "CheckpointRecipe",
    "DataRecipe",
    "HeartbeatRecipe",
    "LoadedRecipe",
    "ModuleRecipe",
    "Placement",
    "ProfileRecipe",
    "Recipe",
    "TokenizerRecipe",
    "ValidationRecipe",
    "dump",
    "load_recipe",
    "load_text",
    "structure_options",
]
