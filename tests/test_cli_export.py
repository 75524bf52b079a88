"""What ``mimo export`` writes, and from where; the writing itself is in test_weights_in_models."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimo_core.cli.export import find_checkpoint, modules_to_write
from mimo_core.errors import MimoError

from .conftest import HERE

TINY = HERE / "recipes" / "tiny.yaml"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder whose newest checkpoint is of iteration 7."""
    for iteration in (3, 7):
        folder = tmp_path / "run" / "checkpoints" / f"iter_{iteration:07d}"
        folder.mkdir(parents=True)
        (folder / ".metadata").touch()
    (folder.parent / "latest_checkpointed_iteration.txt").write_text("7")
    (tmp_path / "run" / "recipe.yaml").write_text(TINY.read_text())
    return tmp_path / "run"


def test_a_run_its_checkpoints_or_one_of_them_can_be_named(run: Path) -> None:
    newest, recipe = run / "checkpoints" / "iter_0000007", run / "recipe.yaml"
    assert find_checkpoint(run, None) == (newest, recipe)
    assert find_checkpoint(run / "checkpoints", None) == (newest, recipe)
    earlier = run / "checkpoints" / "iter_0000003"
    assert find_checkpoint(earlier, None) == (earlier, recipe)
    assert find_checkpoint(earlier, TINY) == (earlier, TINY)


def test_checkpoints_outside_the_run_folder_are_found_by_the_recipe(run: Path) -> None:
    moved = run.parent / "elsewhere"
    (run / "checkpoints").rename(moved)
    text = TINY.read_text() + f"\ncheckpoint: {{directory: {moved}}}\n"
    (run / "recipe.yaml").write_text(text)
    assert find_checkpoint(run, None)[0] == moved / "iter_0000007"
    with pytest.raises(MimoError, match=r"no recipe.yaml beside .*; give one with --recipe"):
        find_checkpoint(moved, None)


def test_what_is_no_checkpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(MimoError, match="there is no such folder"):
        find_checkpoint(tmp_path / "gone", None)
    with pytest.raises(MimoError, match="holds no checkpoint"):
        find_checkpoint(tmp_path, None)


def test_modules_are_those_of_the_recipe() -> None:
    assert list(modules_to_write(TINY, (), ())) == ["vision", "language"]
    assert list(modules_to_write(TINY, ("language",), ())) == ["language"]
    with pytest.raises(MimoError, match=r"no module 'visoin'. Did you mean 'vision'\?"):
        modules_to_write(TINY, ("visoin",), ())
