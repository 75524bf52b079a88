"""Whole runs by the command, on two ranks: samples with no, one and three pictures."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from caption_files import cut, write_lines, write_picture

RECIPE = Path(__file__).with_name("captions_run.yaml")
COUNT = 30
CUT, NOT_JSON = 8, 14
"""Lines with a picture cut short, and with no JSON."""


def _lines(folder: Path) -> list[dict[str, Any] | str]:
    """Lines with 0, 1, 3, 0, 1, 3, … pictures, each of a size of its own."""
    lines: list[dict[str, Any] | str] = []
    for number in range(1, COUNT + 1):
        names = [f"{number}-{place}.png" for place in range((3, 0, 1)[number % 3])]
        for place, name in enumerate(names):
            write_picture(folder / "pictures" / name, 9 + number, 40 - 5 * place, seed=number)
        paths = [f"pictures/{name}" for name in names]
        lines.append({"id": number, "images": paths, "text": f"no {number}"})
    (name,) = (folder / "pictures").glob(f"{CUT}-*")
    cut(name)
    return lines


def _run(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """In ``folder``, where the recipe finds ``data/captions.jsonl``."""
    command = [sys.executable, "-m", "mimo_core.cli.pretrain", str(RECIPE), *overrides]
    return subprocess.run(
        [*command, "--run-dir", "run"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )


def test_broken_samples_are_left_out_on_all_ranks(tmp_path: Path) -> None:
    lines = _lines(tmp_path / "data")
    lines[NOT_JSON - 1] = '{"id": 14,'
    write_lines(tmp_path / "data" / "captions.jsonl", lines)
    done = _run(tmp_path, "data.options.broken=skip")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    losses = [row["loss"] for row in summary["iterations"]]
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    assert all(row["gradient_norm"] > 0 for row in summary["iterations"])
    assert "exact_captions" in summary["evaluation"]
    assert "captions.jsonl:" in done.stdout, "held-out samples by line"
    logs = [(tmp_path / "run" / "logs" / f"rank-{rank}.log").read_text() for rank in (0, 1)]
    for log in logs:
        assert f"2 of {COUNT} lines are broken and left out" in log
        assert f"captions.jsonl:{CUT}: image pictures/{CUT}-0.png: image file is truncated" in log
        assert f"captions.jsonl:{NOT_JSON}: not JSON" in log
    assert sum(log.count(" images once, on ") for log in logs) == 1, "decoded by one of them"


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A folder whose only fault is the picture cut short."""
    write_lines(tmp_path / "data" / "captions.jsonl", _lines(tmp_path / "data"))
    return tmp_path


def test_a_broken_line_stops_before_training(stopped: Path) -> None:
    with (stopped / "data" / "captions.jsonl").open("a") as file:
        file.write("no JSON\n")
    done = _run(stopped)
    assert done.returncode != 0
    assert f"captions.jsonl:{COUNT + 1}: not JSON" in done.stderr
    assert "data.options.broken: skip" in done.stderr
    assert "training" not in done.stdout


def test_a_broken_picture_stops_the_run_that_meets_it(stopped: Path) -> None:
    """Within as many samples as the file has."""
    done = _run(stopped, "train.iterations=3")
    assert done.returncode == 1, done.stdout
    assert f"captions.jsonl:{CUT}: pictures/{CUT}-0.png: image file is truncated" in done.stderr
    assert "rank 0 (vision) failed" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("policy", "change"), [("stop", Path.unlink), ("skip", cut)])
def test_pictures_that_are_lost_while_training_runs_end_the_run(
    tmp_path: Path, policy: str, change: Callable[[Path], None]
) -> None:
    """All of them after the first iteration: the error names one by its line, and nothing hangs.
    ``skip`` does not leave a sample out any more, as it was good when the run began."""
    lines = _lines(tmp_path / "data")
    write_picture(tmp_path / "data" / "pictures" / f"{CUT}-0.png", 9, 9)
    write_lines(tmp_path / "data" / "captions.jsonl", lines)
    command = [sys.executable, "-m", "mimo_core.cli.pretrain", str(RECIPE), "--run-dir", "run"]
    given = (
        "train.iterations=1000000",
        f"data.options.broken={policy}",
        "checkpoint.enabled=false",
    )
    with (tmp_path / "errors").open("w") as errors:
        run = subprocess.Popen(
            [*command, *given], cwd=tmp_path, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            assert run.stdout is not None
            assert any("training 1/" in line for line in run.stdout)
            for path in (tmp_path / "data" / "pictures").iterdir():
                change(path)
            run.communicate(timeout=600)
        finally:
            run.kill()
    text = (tmp_path / "errors").read_text()
    assert run.returncode == 1, text
    assert re.search(r"captions\.jsonl:\d+: (image )?pictures/\d+-\d\.png: ", text)
    assert "Traceback" not in text
