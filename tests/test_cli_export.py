"""What ``mimo export`` writes, and from where; the writing itself is in test_weights_in_models."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimo_core.cli.export import find_checkpoint, modules_to_write
from mimo_core.errors import MimoError
from mimo_core.recipe import load_recipe

from .conftest import HERE, Run


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


def test_modules_are_those_of_the_recipe() -> None:
    loaded = load_recipe(HERE / "recipes" / "tiny.yaml")
    assert list(modules_to_write(loaded, (), ())) == ["vision", "language"]
    assert list(modules_to_write(loaded, ("language",), ())) == ["language"]
    with pytest.raises(MimoError, match=r"no module 'visoin'. Did you mean 'vision'\?"):
        modules_to_write(loaded, ("visoin",), ())
