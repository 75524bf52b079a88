"""Whole runs by the command, on rectangles of any shape, none to three in a sample."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment with the ``rectangles`` plugin installed, as pip would lay it out."""
    site = tmp_path_factory.mktemp("site")
    shutil.copy(HERE / "plugins" / "rectangles_plugin.py", site)
    info = site / "rectangles_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rectangles-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mimo.plugins]\nrectangles = rectangles_plugin\n")
    paths = filter(None, [str(site), os.environ.get("PYTHONPATH")])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


@pytest.fixture(scope="module")
def summary(environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("rectangles") / "run"
    command = [sys.executable, "-m", "mimo_core.cli.pretrain", str(HERE / "rectangles.yaml")]
    done = subprocess.run(
        [*command, "--run-dir", str(folder)],
        env=environ,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "summary.json").read_text())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def verified(
    environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """Two encoders over stages, against the same model on one rank."""
    folder = tmp_path_factory.mktemp("stages") / "kept"
    command = [sys.executable, "-m", "mimo_core.cli.mimo", "verify", str(HERE / "stages.yaml")]
    done = subprocess.run(
        [*command, "--steps", "2", "--json", "--run-dir", str(folder)],
        env=environ,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.stdout, done.stderr
    return folder, json.loads(done.stdout)


def test_run_learns_from_rectangles_of_any_shape_and_number(summary: dict[str, Any]) -> None:
    iterations = summary["iterations"]
    assert len(iterations) == 4
    assert all(math.isfinite(row["loss"]) and row["gradient_norm"] > 0 for row in iterations)
    assert iterations[-1]["loss"] < iterations[0]["loss"]
    assert math.isfinite(summary["evaluation"]["loss"])


@pytest.mark.long
def test_encoders_over_stages_train_as_on_one_rank(
    verified: tuple[Path, dict[str, Any]],
) -> None:
    """Losses, gradient norms and what every module learned; the first microbatch has no picture,
    and of one encoder the first stage has nothing to learn."""
    _, verdict = verified
    assert verdict["equal"], [row for row in verdict["rows"] if not row["equal"]]
    assert {row["module"] for row in verdict["rows"]} >= {"deep", "known", "language"}
    assert all(row["judge"] for row in verdict["rows"])


@pytest.mark.long
def test_later_stages_decode_no_picture(verified: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = verified
    ranks = json.loads((folder / "layout" / "summary.json").read_text())["ranks"]
    deep, behind, known, behind_known, language = (rank["decoded"] for rank in ranks)
    assert deep == known > 0
    assert behind == behind_known == language == 0
