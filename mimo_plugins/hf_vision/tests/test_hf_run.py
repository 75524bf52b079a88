"""A whole run by the commands: a tower on two ranks that begins with weights of a whole model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hf_tiny import write_model, write_weights
from safetensors.numpy import load_file

RECIPE = Path(__file__).with_name("hf_run.yaml")


@attrs.frozen(kw_only=True)
class Ran:
    """What the run left."""

    model: Path
    folder: Path
    screen: str

    @property
    def iterations(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((self.folder / "summary.json").read_text())[
            "iterations"
        ]
        return found


def _mimo(program: str, *arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"mimo_core.cli.{program}", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    base = tmp_path_factory.mktemp("hf")
    model = write_weights(write_model(base / "clip", "clip"))
    places = (f"modules.vision.options.model={model}", f"modules.vision.pretrained_weights={model}")
    screen = _mimo("pretrain", RECIPE, *places, "--run-dir", base / "run")
    return Ran(model=model, folder=base / "run", screen=screen)


def test_the_tower_learns_with_the_language_model(ran: Ran) -> None:
    losses = [row["loss"] for row in ran.iterations]
    assert len(losses) == 6
    assert losses[-1] < losses[0] - 0.5
    assert all(row["gradient_norms"]["vision"] > 0 for row in ran.iterations)


def test_it_begins_with_the_weights_of_the_directory_and_writes_them_back(
    ran: Ran, tmp_path: Path
) -> None:
    """To the last bit, under the names of the whole model, with what is not the tower's."""
    begin = ran.folder / "checkpoints" / "iter_0000000"
    _mimo("mimo", "export", begin, tmp_path / "out", "--module", "vision", "--like", ran.model)
    given = load_file(ran.model / "model.safetensors")
    written = load_file(tmp_path / "out" / "model.safetensors")
    projector = {name for name in written if name.startswith("multi_modal_projector.")}
    assert len(projector) == 4
    assert written.keys() - projector == given.keys()
    for name, tensor in given.items():
        assert tensor.dtype == written[name].dtype
        assert np.array_equal(tensor, written[name]), name
