"""Folders of the repository that tests read."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
RECIPES = TESTS / "recipes"
PLUGINS = TESTS / "plugins"
HELPERS = TESTS / "helpers"
RANK_FUNCTIONS = TESTS / "distributed" / "rank_functions"
BROKEN_PLUGINS = TESTS / "conformance" / "broken_plugins"
