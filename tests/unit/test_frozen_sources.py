"""Where weights that do not learn are read again, and how a checkpoint tells of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest
import torch

from mimo_core.checkpoint.manifest import read_manifest
from mimo_core.errors import CheckpointError
from mimo_core.weights import checkpoint_with_frozen
from mimo_core.weights.compare import match
from mimo_core.weights.frozen_sources import (
    WeightSources,
    check_origins,
    directory_digest,
    origins_of,
)

from ..helpers.problems import refused
from .test_checkpoint_directory import checkpoint, manifest
from .test_safetensors_dir import MAP, TOWER, directory

TOWER_KEY = "modality_submodules.vision.encoders.tower.layers.weight"
PROJECTOR_KEY = "modality_submodules.vision.input_projections.0.weight"
FACTS = {"shape": [2], "dtype": "float32"}


def test_another_model_of_the_same_shapes_has_another_digest(tmp_path: Path) -> None:
    same = directory_digest(match(MAP, directory(tmp_path / "a", TOWER)))
    assert directory_digest(match(MAP, directory(tmp_path / "b", TOWER))) == same
    other = {name: tensor + 1e-3 for name, tensor in TOWER.items()}
    assert directory_digest(match(MAP, directory(tmp_path / "c", other))) != same
    wider = {name: tensor.double() for name, tensor in TOWER.items()}
    assert directory_digest(match(MAP, directory(tmp_path / "d", wider))) != same


def test_what_a_directory_gave_is_left_out_and_nothing_else(tmp_path: Path) -> None:
    found = {"vision": match(MAP, directory(tmp_path / "a", TOWER))}
    origins = WeightSources(directories=found)
    origins.loaded = frozenset({TOWER_KEY})
    assert origins.has(TOWER_KEY) and not origins.has(PROJECTOR_KEY)
    assert origins.modules_without(["vision", "language"]) == ["language"]
    told = origins.facts({TOWER_KEY: FACTS})
    assert told["left_out"] == {TOWER_KEY: {**FACTS, "origin": 0}}
    saved = attrs.evolve(manifest(3), **told)
    check_origins(saved, found)
    changed = {
        "vision": match(MAP, directory(tmp_path / "b", {n: t * 2 for n, t in TOWER.items()}))
    }
    place = str(changed["vision"].directory)
    with refused("checkpoint.frozen-weights", CheckpointError, module="vision", place=place):
        check_origins(saved, changed)

    later = WeightSources(goes_on=saved, directories=found)
    assert later.has(TOWER_KEY) and not later.has(PROJECTOR_KEY), "what was saved is saved on"
    assert later.facts({TOWER_KEY: FACTS}) == told


def test_what_another_checkpoint_holds_comes_out_in_the_runs_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base was saved in fp32; the run that starts from it has its tower in bf16."""
    base = checkpoint(tmp_path / "base", 3)
    facts = {TOWER_KEY: {"shape": [2], "dtype": "bfloat16"}}
    told = WeightSources(start=(base, read_manifest(base))).facts(facts)
    run = checkpoint(tmp_path / "run", 5, **told)
    held = SimpleNamespace(keys=frozenset(), read=lambda key, index: torch.ones(2))
    monkeypatch.setattr(checkpoint_with_frozen, "Checkpoint", lambda folder: held)
    whole = checkpoint_with_frozen.CompletedCheckpoint(run, {})
    assert whole.read(TOWER_KEY, ()).dtype == whole.dtype(TOWER_KEY) == torch.bfloat16


def test_a_chain_of_runs_names_the_places_that_hold_the_numbers(tmp_path: Path) -> None:
    """The first run left its tower out, the second starts from it and leaves out its projector."""
    base = WeightSources(directories={"vision": match(MAP, directory(tmp_path / "base", TOWER))})
    told = base.facts({TOWER_KEY: FACTS})
    first = checkpoint(tmp_path / "first", 3, **told)
    second = WeightSources(start=(first, read_manifest(first)))
    assert second.has(TOWER_KEY) and second.has(PROJECTOR_KEY)
    saved = attrs.evolve(manifest(5), **second.facts({TOWER_KEY: FACTS, PROJECTOR_KEY: FACTS}))
    at = {key: origins_of(saved)[facts["origin"]] for key, facts in saved.left_out.items()}
    assert at[TOWER_KEY] == origins_of(read_manifest(first))[0]
    assert (at[PROJECTOR_KEY].kind, at[PROJECTOR_KEY].path) == ("checkpoint", str(first))
    check_origins(saved, {"vision": match(MAP, tmp_path / "base")})
    (first / "mimo.json").write_text("{}")
    with refused("checkpoint.frozen-weights", CheckpointError, place=str(first)):
        check_origins(saved, {})
