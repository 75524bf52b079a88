"""Whether a step is taken is one decision, for all modules on all ranks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from mimo_core.checkpoint.directory import checkpoint_path
from mimo_core.checkpoint.keys import module_prefix
from mimo_core.checkpoint.reader import Checkpoint

from ..helpers.runs import Run, installed, start, wrapping

MODULES = ("vision", "language")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Gradients on the second of two encoder ranks alone are infinite in the second step, and from
    the fourth on; a step has 4 microbatches."""
    site = installed("gradients", tmp_path_factory.mktemp("site"))
    every = ("checkpoint.save_interval=1", "train.iterations=14", "modules.vision.grid.dp=2")
    folder = tmp_path_factory.mktemp("planted") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "GRADIENTS", "1 inf 5 8 13 99")
        return start("tiny", *every, *wrapping("gradients", "vision"), folder=folder, site=site)


def test_a_gradient_that_is_not_finite_skips_the_step_on_all_ranks(planted: Run) -> None:
    first, second, third = planted.summary["iterations"][:3]
    assert (second["loss"], second["gradient_norms"]["vision"]) == (None, None)
    assert second["gradient_norms"]["language"] > 0, "the other module's is told"
    assert first["loss"] > 0 and third["loss"] > 0
    assert "iteration 2 was skipped: the gradient of vision is not finite" in planted.screen
    for module in MODULES:
        before, skipped, after = (
            Checkpoint(checkpoint_path(planted.folder / "checkpoints", step)) for step in (1, 2, 3)
        )
        weights = [key for key in before.keys if key.startswith(module_prefix(module))]
        assert all(torch.equal(skipped.read(key, ()), before.read(key, ())) for key in weights)
        assert any(not torch.equal(after.read(key, ()), skipped.read(key, ())) for key in weights)


def test_a_run_in_which_every_step_is_skipped_ends(planted: Run) -> None:
    assert planted.code == 1
    assert "iterations 4 to 13 " in planted.errors and "[run.steps-skipped]\n" in planted.errors
    assert (planted.folder / "checkpoints" / "iter_0000012").is_dir()


def test_a_run_whose_steps_were_all_skipped_has_not_finished(tmp_path: Path) -> None:
    """Fewer steps than the limit of those in a row."""
    site = installed("gradients", tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "GRADIENTS", "0 inf 1 99")
        run = start(
            "tiny",
            "train.iterations=2",
            *wrapping("gradients", "vision"),
            folder=tmp_path / "run",
            site=site,
        )
    assert run.code == 1 and not run.summary["finished"]
    assert "every iteration was skipped" in run.errors and "[run.steps-skipped]\n" in run.errors
