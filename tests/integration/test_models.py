"""Models and layouts of every kind, each a whole run by the command."""

from __future__ import annotations

from pathlib import Path

import pytest

import mimo_core

from ..helpers.paths import RECIPES
from ..helpers.runs import Run, start


def test_the_language_model_runs_alone_over_two_stages(
    tmp_path: Path, words_site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any encoder, on a dataset that a stranger's plugin brings, started from Python."""
    monkeypatch.syspath_prepend(str(words_site))
    monkeypatch.setenv("PYTHONPATH", str(words_site))
    recipe = RECIPES / "text_only.yaml"
    summary = mimo_core.pretrain(
        recipe, overrides=["train.log_interval=3"], run_dir=tmp_path / "run"
    )
    assert summary is not None
    losses = [row["loss"] for row in summary["iterations"]]
    assert losses[-1] < losses[0] - 0.2
    assert summary["plugins"]["words"] == "1.0"
    assert "exact_words" in summary["evaluation"]
    assert Run(folder=tmp_path / "run", code=0, screen="", errors="").summary == summary


def test_the_demo_learns_to_read(tmp_path: Path) -> None:
    """The first part of the demo: well on its way to the 98 % of the whole. What can be learned
    without looking at the pictures is under 20 %."""
    demo = Path(mimo_core.__file__).parent / "recipe" / "builtin" / "demo.yaml"
    short = ("train.iterations=80", "validation.interval=0", "checkpoint.save_interval=0")
    run = start(demo, *short, folder=tmp_path / "run")
    assert run.code == 0, run.screen + run.errors
    assert run.summary["evaluation"]["caption_accuracy"] > 0.6


@pytest.mark.long
def test_eight_ranks_train(tmp_path: Path) -> None:
    """Encoder tp 2 dp 2; language model tp 2 dp 2 ep 2 with sequence parallelism."""
    recipe = Path(mimo_core.__file__).parent / "recipe" / "builtin" / "eight-ranks.yaml"
    short = ("train.iterations=3", "train.lr_warmup_iterations=0", "validation.num_samples=64")
    run = start(recipe, *short, folder=tmp_path / "run")
    assert run.code == 0, run.screen + run.errors
    assert run.losses[-1] < run.losses[0] - 0.3
    assert Path(run.summary["checkpoint"]).is_dir()


def test_two_encoders_one_frozen_train_save_and_go_on(tmp_path: Path) -> None:
    """Two encoders of one plugin on three ranks; one is wholly frozen and has no optimizer."""
    begun = start("two_encoders", "megatron.exit_interval=1", folder=tmp_path / "run")
    assert begun.code == 0, begun.screen + begun.errors
    run = start("two_encoders", folder=tmp_path / "run")
    assert run.code == 0, run.screen + run.errors
    assert [row["iteration"] for row in run.summary["iterations"]] == [1, 2, 3]
    assert run.losses[-1] < run.losses[0] - 0.1
    decoded = {rank["module"]: rank["decoded"] for rank in run.summary["ranks"]}
    assert decoded["fine"] == decoded["coarse"] > 0 == decoded["language"]
