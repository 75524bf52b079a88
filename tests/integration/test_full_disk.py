"""A disk that is full, a real one, with the whole run on it: the run ends with that as its cause,
keeps the checkpoint before, and goes on from it when there is room."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mimo_core.checkpoint.directory import newest
from mimo_core.launch.rank_main import _explain
from mimo_core.reporting.run_directory import RunDirectory

from ..helpers.runs import Run, installed, start, wrapping

SAVING = "failed: a checkpoint could not be written to {folder}/checkpoints, where 0.0 GB are free"
POINTS = {
    "0:between the manifest's rename and the tracker's truncation": (1, SAVING),
    "0:before the manifest's draft": (1, SAVING),
    "1:before a shard is opened": (1, SAVING),
    "0:between the shards and .metadata": (1, SAVING),
    "1:a batch": (1, "failed: the disk of {folder} (or one that a plugin writes to) is full"),
}
"""Where it becomes full, which checkpoint is the newest then, and what is said."""
SHORT = dict(list(POINTS.items())[:2])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize(
    "points",
    [pytest.param(SHORT, id="short"), pytest.param(POINTS, id="all", marks=pytest.mark.long)],
)
def test_a_full_disk_is_the_cause_and_the_checkpoint_before_is_kept(
    points: dict[str, tuple[int, str]],
    tiny: Run,
    disk: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, filler, site = disk / "run", disk / "filler", tmp_path / "site"
    site.mkdir()
    installed("kills", site)
    monkeypatch.setenv("FILL", str(filler))
    every = ("checkpoint.save_interval=1", *wrapping("kills"))
    for point, (kept, said) in points.items():
        monkeypatch.setenv("KILLS", point)
        full = start("tiny", *every, folder=folder, site=site)
        assert filler.exists() and full.code == 1, full.screen + full.errors
        assert said.format(folder=folder) in full.errors, full.errors
        assert f"that of iteration {kept} is whole" in full.errors
        ending = f"the disk of {folder} is full (see above) [run.disk-full]"
        assert full.errors.strip().endswith(ending)
        assert newest(folder / "checkpoints").iteration == kept
        filler.unlink()
    monkeypatch.setenv("KILLS", "none:none")
    run = start("tiny", *every, folder=folder, site=site)
    assert run.code == 0, run.screen + run.errors
    assert "going on after iteration 1" in run.screen
    assert (run.losses, run.norms) == (tiny.losses, tiny.norms)


def test_a_mistake_that_saving_shows_stays_one(tmp_path: Path) -> None:
    """It is told by its message, and nothing is restarted for it."""

    def save_checkpoint() -> None:
        raise ValueError("the checkpoint would not hold a weight")

    try:
        save_checkpoint()
    except ValueError as error:
        _explain(error, RunDirectory(tmp_path), tmp_path / "checkpoints")
