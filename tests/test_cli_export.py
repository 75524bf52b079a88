"""What ``mimo export`` writes, and from where; the writing itself is in test_weights_in_models."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimo_core.cli.export import find_checkpoint, modules_to_write, moved_weights
from mimo_core.errors import MimoError
from mimo_core.recipe import load_recipe
from mimo_core.recipe.structure import plain

from .conftest import HERE, Run
from .test_manifest import checkpoint


def test_a_run_its_checkpoints_or_one_of_them_can_be_named(tiny: Run) -> None:
    folders = tiny.folder / "checkpoints"
    (newest,) = folders.glob("iter_*")
    for given in (tiny.folder, folders, newest):
        found, loaded = find_checkpoint(given)
        assert found == newest
        assert list(loaded.recipe.modules) == ["vision", "language"]


def test_what_is_no_checkpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(MimoError, match="there is no such folder"):
        find_checkpoint(tmp_path / "gone")
    with pytest.raises(MimoError, match="holds no complete checkpoint"):
        find_checkpoint(tmp_path)
    (tmp_path / "iter_0000003").mkdir()
    with pytest.raises(MimoError, match="iter_0000003 is no complete checkpoint"):
        find_checkpoint(tmp_path / "iter_0000003")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("modules.vision.weights=new", None),
        ("modules.vision.options.like=new", None),
        ("modules.vision.options.layers=3", r"modules.NAME.options.KEY=PLACE .* \(it says 2 there"),
        ("modules.vision.wrappers.lora.alpha=3", "a checkpoint is written as it was trained"),
        ("train.seed=3", r"train.seed=3: a checkpoint is written as it was trained"),
        ("modules.vision.weights", "modules.NAME.weights=PLACE"),
    ],
)
def test_of_a_checkpoints_recipe_places_alone_can_be_given_anew(
    tmp_path: Path, words: str, said: str | None
) -> None:
    recipe = plain(load_recipe(HERE / "recipes" / "tiny.yaml").recipe)
    recipe["modules"]["vision"]["options"] |= {"like": "old", "layers": 2}
    folder = checkpoint(tmp_path, 3, recipe=recipe)
    if said is not None:
        with pytest.raises(MimoError, match=said):
            find_checkpoint(folder, [words])
        return
    _, loaded = find_checkpoint(folder, [words])
    vision = loaded.recipe.modules["vision"]
    assert "new" in (vision.weights, vision.options["like"])
    assert moved_weights(loaded, [words]) == ({"vision": "new"} if vision.weights else {})


def test_modules_are_those_of_the_recipe() -> None:
    loaded = load_recipe(HERE / "recipes" / "tiny.yaml")
    assert list(modules_to_write(loaded, (), ())) == ["vision", "language"]
    assert list(modules_to_write(loaded, ("language",), ())) == ["language"]
    with pytest.raises(MimoError, match=r"no module 'visoin'. Did you mean 'vision'\?"):
        modules_to_write(loaded, ("visoin",), ())
