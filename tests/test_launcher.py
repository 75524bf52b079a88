"""The launcher ends a run as a whole: by its cause where a rank dies, by a signal to itself."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from .conftest import TIMEOUT, command, start

ENDLESS = ("train.iterations=100000", "checkpoint.save_every=3")


def processes(folder: Path) -> list[psutil.Process]:
    """All processes of a run, by its folder on their command lines."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if str(folder) in (process.info["cmdline"] or []):
            found.append(process)
    return found


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A run that has made its first steps and would go on for hours."""
    folder = tmp_path / "run"
    launcher = subprocess.Popen(
        command("tiny", *ENDLESS, folder=folder),
        env={**os.environ, "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for((folder / "checkpoints" / "latest_checkpointed_iteration.txt").exists)
        yield launcher, folder
    finally:
        launcher.kill()
        launcher.wait()
        for process in processes(folder):
            process.kill()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def test_a_killed_rank_ends_the_run_and_is_named(
    endless: tuple[subprocess.Popen[str], Path],
) -> None:
    launcher, folder = endless
    ranks = [
        process
        for process in psutil.Process(launcher.pid).children()
        if process.environ().get("RANK") == "0"
    ]
    ranks[0].send_signal(signal.SIGKILL)
    _, errors = launcher.communicate(timeout=20)
    assert launcher.returncode == 1
    assert "rank 0 (vision) was ended by signal SIGKILL" in errors
    wait_for(lambda: not processes(folder))
    resumed = start("tiny", "train.iterations=2", folder=folder)
    assert resumed.code == 2, "what was saved is beyond the new end"
    assert "beyond train.iterations = 2" in resumed.errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_launcher_ends_all_ranks(
    endless: tuple[subprocess.Popen[str], Path], number: signal.Signals
) -> None:
    launcher, folder = endless
    launcher.send_signal(number)
    _, errors = launcher.communicate(timeout=20)
    assert launcher.returncode == 130
    assert "all ranks have ended" in errors
    assert not processes(folder)


def test_a_killed_launcher_takes_its_ranks_along(
    endless: tuple[subprocess.Popen[str], Path],
) -> None:
    launcher, folder = endless
    launcher.kill()
    launcher.wait()
    wait_for(lambda: not processes(folder))


def test_a_run_goes_on_for_longer_but_not_with_another_model(tmp_path: Path) -> None:
    begun = start("tiny", folder=tmp_path / "run")
    assert begun.code == 0, begun.screen + begun.errors
    longer = start("tiny", "train.iterations=6", folder=tmp_path / "run")
    assert longer.code == 0, longer.screen + longer.errors
    assert [row["iteration"] for row in longer.summary["iterations"]] == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "run" / "recipe.earlier-1.yaml").exists()
    for change, said in (
        ("modules.vision.grid.dp=2", "modules.vision.grid.dp: saved with 1, now 2"),
        ("megatron.seq_length=8", "--seq-length is set by the engine"),
    ):
        refused = start("tiny", "train.iterations=6", change, folder=tmp_path / "run")
        assert refused.code == 2
        assert said in refused.errors
