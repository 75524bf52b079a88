"""Pictures, sounds and text on three disjoint grids, by the command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mimo_plugin_spoken_digits import plugin
from mimo_plugin_spoken_digits.options import Options, Shares
from spoken_tones import make_voice

from mimo_core import DatasetConfig
from mimo_core.data.sampler import ShuffledSampler

HERE = Path(__file__).parent
ITERATIONS, SAMPLES, MICROBATCH, HELD_OUT, SEED = 4, 16, 2, 16, 1234
"""As in the recipe."""


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_voice(tmp_path_factory.mktemp("voices") / "tones")


def _command(module: str, *arguments: str, voice: str) -> str:
    told = [str(HERE / "three.yaml"), f"data.options.voices=[{voice}]", *arguments]
    done = subprocess.run(
        [sys.executable, "-m", *module.split(), *told],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(voice: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from beginning to end."""
    run = tmp_path_factory.mktemp("three") / "run"
    _command("mimo_core.cli.pretrain", "--run-dir", str(run), voice=voice)
    return run


def _summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())  # type: ignore[no-any-return]


def _kinds(voice: str) -> tuple[list[str], list[str]]:
    """Kinds of the samples trained on, in order, and of those held out."""
    equal = Shares(both=1, picture=1, sound=1, none=1)
    options = Options(voices=(voice,), size=16, seconds=0.5, shares=equal)
    data = DatasetConfig(plugin="spoken-digits", options=options)
    train, held_out = (plugin.build_dataset(data, split) for split in ("train", "validation"))
    order = ShuffledSampler(len(train), SEED)
    seen = [train[order[place]].key for place in range(ITERATIONS * SAMPLES)]
    shown = [held_out[place].key for place in range(HELD_OUT)]
    return [key.split("/")[2] for key in seen], [key.split("/")[2] for key in shown]


def test_it_learns_from_samples_of_all_kinds(folder: Path, voice: str) -> None:
    seen, _ = _kinds(voice)
    assert {*seen} == {"both", "picture", "sound", "none"}
    microbatches = [{*seen[at : at + MICROBATCH]} for at in range(0, len(seen), MICROBATCH)]
    assert any(kinds <= {"sound", "none"} for kinds in microbatches), "no picture"
    assert any(kinds <= {"picture", "none"} for kinds in microbatches), "no sound"
    rows = _summary(folder)["iterations"]
    assert len(rows) == ITERATIONS
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.3
    for row in rows:
        assert all(row["gradient_norms"][name] > 0 for name in ("vision", "audio", "language"))


def test_each_encoder_decodes_its_own_media_alone(folder: Path, voice: str) -> None:
    seen, shown = _kinds(voice)
    due = {
        name: sum(kind in ("both", own) for kind in seen + shown)
        for name, own in (("vision", "picture"), ("audio", "sound"))
    }
    decoded = {rank["module"]: rank["decoded"] for rank in _summary(folder)["ranks"]}
    # Held-out samples that are shown on the screen are drawn besides, and not counted.
    assert decoded == {**due, "language": 0}


def test_held_out_samples_of_all_kinds_are_answered(folder: Path, voice: str) -> None:
    summary = _summary(folder)
    assert 0 <= summary["evaluation"]["caption_accuracy"] <= 1
    _, shown = _kinds(voice)
    answered = [answer["key"].split("/")[2] for answer in summary["answers"]]
    assert answered == shown
    assert {*shown} == {"both", "picture", "sound", "none"}


def test_a_run_goes_on_to_the_last_bit(folder: Path, voice: str, tmp_path: Path) -> None:
    """With dropout and random renderings, from the middle."""
    again = tmp_path / "run"
    shutil.copytree(folder, again)
    shutil.rmtree(again / "checkpoints" / "iter_0000004")
    (again / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("2")
    screen = _command("mimo_core.cli.pretrain", "--run-dir", str(again), voice=voice)
    assert "going on after iteration 2" in screen
    whole, resumed = _summary(folder), _summary(again)
    for key in ("loss", "gradient_norms"):
        assert [row[key] for row in resumed["iterations"]] == [
            row[key] for row in whole["iterations"]
        ]
    assert resumed["evaluation"] == whole["evaluation"]


@pytest.mark.long
def test_three_grids_train_as_one_process(voice: str, tmp_path: Path) -> None:
    """Losses, gradients and what every module learned, encoders over tp 2 and dp 2 too."""
    grids = ("modules.vision.grid={dp: 2}", "modules.audio.grid={tp: 2}")
    options = (
        *grids,
        "modules.audio.options.dropout=0",
        "--json",
        "--run-dir",
        str(tmp_path / "v"),
    )
    verdict = json.loads(_command("mimo_core.cli.mimo verify", *options, voice=voice))
    assert verdict["equal"], [row for row in verdict["rows"] if not row["equal"]]
    assert {row["module"] for row in verdict["rows"]} >= {"vision", "audio", "language"}
