"""``docs/recipe.md`` is what the classes of a recipe say."""

from __future__ import annotations

from pathlib import Path

import attrs

from mimo_core import Grid, TrainingConfig
from mimo_core.planning.plan import make_plan
from mimo_core.recipe import (
    CheckpointRecipe,
    DataRecipe,
    HeartbeatRecipe,
    ModuleRecipe,
    ProfileRecipe,
    Recipe,
    TokenizerRecipe,
    ValidationRecipe,
)
from mimo_core.recipe.docgen import EXAMPLE, reference

from ..helpers.paths import ROOT

PAGE = ROOT / "docs" / "recipe.md"
CLASSES = (
    Recipe,
    ModuleRecipe,
    Grid,
    DataRecipe,
    TrainingConfig,
    TokenizerRecipe,
    ValidationRecipe,
    CheckpointRecipe,
    HeartbeatRecipe,
    ProfileRecipe,
)


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == reference(), (
        "run: python -m mimo_core.recipe.docgen > docs/recipe.md"
    )


def test_every_key_is_there_and_says_what_it_means():
    rows = [row.split(" | ", 3) for row in reference().splitlines() if row.startswith("| `")]
    keys = [field.name for cls in CLASSES for field in attrs.fields(cls)]
    assert sorted(row[0].strip("|` ") for row in rows) == sorted(keys)
    assert [row[0] for row in rows if not row[3].strip("| ")] == []


def test_types_and_defaults_are_told():
    page = reference()
    for row in (
        "| `iterations` | integer | required |",
        "| `lr_decay_style` | `constant`, `linear`, `cosine` | `cosine` |",
        "| `freeze` | list of `encoder`, `projector`, `language` | `[]` |",
        "| `num_samples` | integer or `null` | `null` |",
        "| `modules` | mapping of names to [modules.NAME](#modulesname) | required |",
        "| `grid` | [modules.NAME.grid](#modulesnamegrid) | its defaults |",
    ):
        assert row in page, row
    for heading in ("## `modules.NAME`\n", "## `modules.NAME.grid`\n", "## `train`\n"):
        assert heading in page


def test_the_example_can_be_planned(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text(EXAMPLE)
    plan = make_plan(tmp_path / "recipe.yaml")
    assert plan.layout.world_size == 8
    assert EXAMPLE in reference()
