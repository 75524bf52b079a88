"""What a new run starts with is known before a rank is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from mimo_core.errors import RecipeError
from mimo_core.plan import Plan, make_plan
from mimo_core.recipe import dump
from mimo_core.run_folder import RunFolder
from mimo_core.train.going_on import iterations_done
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


def test_checkpoints_that_nothing_names_are_not_written_over(saved: Path, tmp_path: Path) -> None:
    run = RunFolder(saved)
    tracker = saved / "checkpoints" / "latest_checkpointed_iteration.txt"
    assert iterations_done(plan(tmp_path), run) == 3
    tracker.unlink()
    with pytest.raises(
        RecipeError, match=rf"whole checkpoints \(iterations 3\).*echo 3 > {tracker}"
    ):
        iterations_done(plan(tmp_path), run)
    next(saved.rglob("*.distcp")).unlink()
    assert iterations_done(plan(tmp_path), run) is None, "a first save that was not finished"


@pytest.mark.parametrize(
    "changed", ["train.global_batch_size=16", "train.learning_rate=2e-3", "train.seed=9"]
)
def test_what_the_place_in_the_data_stands_on_stays(
    saved: Path, tmp_path: Path, changed: str
) -> None:
    run = RunFolder(saved)
    run.keep_recipe(dump(plan(tmp_path).recipe))
    key, _, value = changed.partition("=")
    with pytest.raises(RecipeError, match=rf"{key}: saved with \S+, now {float(value):g}"):
        iterations_done(plan(tmp_path, changed), run)
    assert iterations_done(plan(tmp_path, "train.micro_batch_size=2"), run) == 3


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
