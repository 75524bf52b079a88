"""A changed value is refused, reported with both values, or known to change no number."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import attrs
import pytest

from mimo_core.checkpoint.compatibility import _changed as refused
from mimo_core.checkpoint.compatibility import data_differences
from mimo_core.checkpoint.resume_changes import HARMLESS, resume_changes
from mimo_core.contract import Grid, TrainingConfig
from mimo_core.planning.plan import Plan
from mimo_core.recipe import megatron_schema, schema
from mimo_core.recipe.converter import plain

from .test_checkpoint_directory import manifest
from .test_warm_start import plan

SECTIONS = {
    "train": TrainingConfig,
    "data": schema.DataRecipe,
    "tokenizer": schema.TokenizerRecipe,
    "validation": schema.ValidationRecipe,
    "checkpoint": schema.CheckpointRecipe,
    "profile": schema.ProfileRecipe,
    "heartbeat": schema.HeartbeatRecipe,
    "modules.vision": schema.ModuleRecipe,
    "modules.language": schema.ModuleRecipe,
    "modules.vision.grid": Grid,
}
BY_FACTS = ("placement", "modules.*.grid.*")
"""Reported by ``checkpointing.run_metadata.changes``, from the layout as it really was."""
EXPECTED_HARMLESS = {
    *(f"checkpoint.{field.name}" for field in attrs.fields(schema.CheckpointRecipe)),
    *(f"profile.{field.name}" for field in attrs.fields(schema.ProfileRecipe)),
    *(f"heartbeat.{field.name}" for field in attrs.fields(schema.HeartbeatRecipe)),
    *("train.log_interval", "validation.interval", "validation.num_displayed", "data.num_workers"),
    *(
        "modules.vision.extra_warmup_microbatches",
        "modules.language.extra_warmup_microbatches",
        "modules.vision.grid.rank_offset",
    ),
}


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return plan(tmp_path_factory.mktemp("recipe"))


def places() -> Iterator[str]:
    """Every key of the schema, and a key below each free mapping."""
    yield "placement"
    for section, cls in SECTIONS.items():
        for field in attrs.fields(cls):
            if field.name == "grid":
                continue
            inner = {"options": ".x", "megatron": ".x", "wrappers": ".x"}.get(field.name, "")
            yield f"{section}.{field.name}{inner}"


def test_every_section_is_walked() -> None:
    named = {name.partition(".")[0] for name in SECTIONS} | {"placement", "megatron"}
    assert {field.name for field in attrs.fields(schema.Recipe)} == named


def outcome(wanted: Plan, place: str, value: Any) -> tuple[list[str], list[str]]:
    """What is refused and what is reported where a checkpoint was saved with another value."""
    recipe = copy.deepcopy(plain(wanted.recipe))
    *above, last = place.split(".")
    inner = recipe
    for key in above:
        inner = inner[key]
    inner[last] = value
    saved = manifest(3, recipe=recipe)
    now = {"versions": saved.versions, "environment": saved.environment}
    reported = [*data_differences(saved, wanted), *resume_changes(saved, wanted, now)]
    return refused(saved, wanted), reported


@pytest.mark.parametrize("place", list(places()))
def test_every_key_is_refused_or_reported_or_harmless(wanted: Plan, place: str) -> None:
    no, reported = outcome(wanted, place, {"n": 7} if ".wrappers." in place else 7.25)
    harmless = any(fnmatchcase(place, pattern) for pattern in HARMLESS)
    assert harmless == (place in EXPECTED_HARMLESS)
    if any(fnmatchcase(place, pattern) for pattern in BY_FACTS) or harmless:
        return
    lines = [line for line in (*no, *reported) if line.startswith(place)]
    assert lines, place
    assert "only in" in lines[0] or ("7" in lines[0] and "now" in lines[0])


def test_every_stock_flag_is_refused_or_reported(wanted: Plan) -> None:
    for flag in sorted(megatron_schema.flags()):
        no, reported = outcome(wanted, f"megatron.{flag}", 7.25)
        place = f"megatron.{flag}: saved with 7.25, now None"
        assert any(place in line for line in (*no, *reported)), flag


def test_nothing_changed_reports_nothing(wanted: Plan) -> None:
    assert outcome(wanted, "train.seed", wanted.recipe.train.seed) == ([], [])


def test_a_longer_run_reports_its_new_schedule(wanted: Plan) -> None:
    _, reported = outcome(wanted, "train.iterations", 6)
    assert reported == [
        "train.iterations: saved with 6, now 20; the learning rate follows the schedule of the new "
        "length from the next iteration, and jumps there"
    ]


def test_other_surroundings_are_reported(wanted: Plan, tmp_path: Path) -> None:
    saved = manifest(3, recipe=plain(wanted.recipe))
    now = {"versions": {"torch": "2.15.0"}, "environment": {}}
    assert list(resume_changes(saved, wanted, now)) == [
        "version of torch: saved with 2.14.1, now 2.15.0",
        "environment variable NVTE_FUSED_ATTN: saved with 1, now None",
    ]
