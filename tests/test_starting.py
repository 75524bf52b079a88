"""What a new run starts with is known before a rank is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from mimo_core.errors import RecipeError
from mimo_core.plan import Plan, make_plan
from mimo_core.train.starting import starting_weights

from .fake_plugins import RECIPE, host

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A run folder with a checkpoint of iteration 3."""
    checkpoints = tmp_path / "run" / "checkpoints"
    newest = checkpoints / "iter_0000003"
    newest.mkdir(parents=True)
    (newest / "metadata.json").write_text("{}")
    dcp.save({"weight": torch.ones(3)}, checkpoint_id=newest, no_dist=True)
    (checkpoints / "latest_checkpointed_iteration.txt").write_text("3")
    return tmp_path / "run"


def plan(folder: Path, *overrides: str) -> Plan:
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE)
    return make_plan(recipe, overrides, host=host())


def test_a_run_folder_or_its_checkpoints_can_be_named(saved: Path, tmp_path: Path) -> None:
    for given in (saved, saved / "checkpoints"):
        found = starting_weights(plan(tmp_path, f"checkpoint.start_from={given}"), done=None)
        assert found == saved / "checkpoints"
    assert starting_weights(plan(tmp_path), done=None) is None


def test_a_run_that_goes_on_has_its_weights(tmp_path: Path) -> None:
    gone = plan(tmp_path, f"checkpoint.start_from={tmp_path / 'gone'}")
    assert starting_weights(gone, done=2) is None
    meta = plan(tmp_path, "modules.vision.megatron.init_model_with_meta_device=true")
    assert starting_weights(meta, done=2) is None


def test_a_place_without_a_checkpoint_is_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"checkpoint.start_from=.*: there is no such folder in"):
        starting_weights(plan(tmp_path, f"checkpoint.start_from={tmp_path / 'gone'}"), done=None)
    next(saved.rglob("*.distcp")).write_bytes(b"")
    with pytest.raises(RecipeError, match=r"iteration 3, is damaged: .*\.distcp is cut off"):
        starting_weights(plan(tmp_path, f"checkpoint.start_from={saved}"), done=None)
    (saved / "checkpoints" / "latest_checkpointed_iteration.txt").unlink()
    with pytest.raises(RecipeError, match="holds no checkpoint"):
        starting_weights(plan(tmp_path, f"checkpoint.start_from={saved}"), done=None)


@pytest.mark.parametrize("place", ["modules.vision.megatron", "megatron"])
def test_weights_without_values_are_refused(saved: Path, tmp_path: Path, place: str) -> None:
    meta = f"{place}.init_model_with_meta_device=true"
    with pytest.raises(RecipeError, match="weights without memory get values from a checkpoint"):
        starting_weights(plan(tmp_path, meta), done=None)
    begin = f"checkpoint.start_from={saved}"
    assert starting_weights(plan(tmp_path, meta, begin), done=None) == saved / "checkpoints"
