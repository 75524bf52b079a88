"""The recipe: a YAML file of a run, read into frozen attrs classes."""

from mimo_core.recipe.loader import LoadedRecipe, dump, load_recipe, load_text, structure_options
from mimo_core.recipe.schema import (
    CheckpointRecipe,
    DataRecipe,
    EvaluateRecipe,
    HeartbeatRecipe,
    LayoutKind,
    ModuleRecipe,
    ProfileRecipe,
    Recipe,
    TokenizerRecipe,
)

__all__ = [
    "CheckpointRecipe",
    "DataRecipe",
    "EvaluateRecipe",
    "HeartbeatRecipe",
    "LayoutKind",
    "LoadedRecipe",
    "ModuleRecipe",
    "ProfileRecipe",
    "Recipe",
    "TokenizerRecipe",
    "dump",
    "load_recipe",
    "load_text",
    "structure_options",
]
