"""What ``mimo export`` writes, and from where; the writing itself is in test_weights_in_models."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimo_core.cli.export import find_checkpoint, modules_to_write, moved_weights
from mimo_core.recipe import load_recipe
from mimo_core.recipe.converter import plain

from ..helpers.paths import RECIPES
from ..helpers.problems import refused
from ..helpers.runs import Run
from .test_checkpoint_directory import checkpoint


def test_a_run_its_checkpoints_or_one_of_them_can_be_named(tiny: Run) -> None:
    folders = tiny.folder / "checkpoints"
    (newest,) = folders.glob("iter_*")
    for given in (tiny.folder, folders, newest):
        found, loaded = find_checkpoint(given)
        assert found == newest
        assert list(loaded.recipe.modules) == ["vision", "language"]


def test_what_is_no_checkpoint_is_told(tmp_path: Path) -> None:
    with refused("checkpoint.not-found", folder=str(tmp_path / "gone")):
        find_checkpoint(tmp_path / "gone")
    with refused("checkpoint.incomplete", folder=str(tmp_path)):
        find_checkpoint(tmp_path)
    (tmp_path / "iter_0000003").mkdir()
    with refused("checkpoint.incomplete", folder=str(tmp_path / "iter_0000003")):
        find_checkpoint(tmp_path / "iter_0000003")


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ("modules.vision.pretrained_weights=new", None),
        ("modules.vision.options.like=new", None),
        ("modules.vision.options.layers=3", "modules.vision.options.layers"),
        ("modules.vision.wrappers.lora.alpha=3", "modules.vision.wrappers.lora.alpha"),
        ("train.seed=3", "train.seed"),
        ("modules.vision.pretrained_weights", "modules.vision.pretrained_weights"),
    ],
)
def test_of_a_checkpoints_recipe_places_alone_can_be_given_anew(
    tmp_path: Path, words: str, key: str | None
) -> None:
    recipe = plain(load_recipe(RECIPES / "tiny.yaml").recipe)
    recipe["modules"]["vision"]["options"] |= {"like": "old", "layers": 2}
    folder = checkpoint(tmp_path, 3, recipe=recipe)
    if key is not None:
        with refused("export.refused-override", key=key):
            find_checkpoint(folder, [words])
        return
    _, loaded = find_checkpoint(folder, [words])
    vision = loaded.recipe.modules["vision"]
    assert "new" in (vision.pretrained_weights, vision.options["like"])
    assert moved_weights(loaded, [words]) == (
        {"vision": "new"} if vision.pretrained_weights else {}
    )


def test_modules_are_those_of_the_recipe() -> None:
    loaded = load_recipe(RECIPES / "tiny.yaml")
    assert list(modules_to_write(loaded, (), ())) == ["vision", "language"]
    assert list(modules_to_write(loaded, ("language",), ())) == ["language"]
    known = ("vision", "language")
    with refused("export.unknown-module", module="visoin", known=known) as caught:
        modules_to_write(loaded, ("visoin",), ())
    assert "Did you mean 'vision'?" in caught.value.text
