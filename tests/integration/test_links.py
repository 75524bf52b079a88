"""A link in a run folder never has its target emptied or removed; files have the umask's mode."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from mimo_core.checkpoint.directory import TRACKER, checkpoint_path, clear
from mimo_core.checkpoint.manifest import MANIFEST
from mimo_core.reporting.run_directory import RunDirectory
from mimo_core.utils.durable_files import write_synced
from mimo_core.utils.safe_files import append_to, replace_text, replacing, usual_mode

from ..helpers.problems import refused
from ..helpers.runs import Run, start

KEPT = "not the run's\n"


def test_a_lock_that_is_a_link_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text(KEPT)
    folder = RunDirectory(tmp_path / "run")
    folder.path.mkdir()
    (folder.path / ".lock").symlink_to(target)
    with refused("run.unusable-folder", file=str(folder.path / ".lock")):
        folder.lock()
    assert target.read_text() == KEPT
    (folder.path / ".lock").unlink()
    os.mkfifo(folder.path / ".lock")
    with pytest.raises(OSError, match="is no regular file"):
        folder.lock()


def test_a_lock_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text(KEPT)
    with RunDirectory(tmp_path).lock():
        assert (tmp_path / ".lock").read_text() == KEPT


@pytest.mark.parametrize("complete", [False, True])
def test_clearing_a_checkpoint_that_is_a_link_removes_the_link_only(
    complete: bool, tmp_path: Path
) -> None:
    target = tmp_path / "elsewhere"
    (target / "inner").mkdir(parents=True)
    (target / "inner" / "file").write_text(KEPT)
    link = checkpoint_path(tmp_path, 3)
    if complete:
        link.mkdir()
        (link / "inner").symlink_to(target)
        (link / "mimo.json").symlink_to(target / "inner" / "file")
    else:
        link.symlink_to(target)
    clear(link)
    assert link.is_dir() and not link.is_symlink() and not [*link.iterdir()]
    assert (target / "inner" / "file").read_text() == KEPT


def test_files_that_are_replaced_or_appended_to_leave_the_target(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text(KEPT)
    link = tmp_path / "link"
    for write in (
        lambda: replace_text(link, "new"),
        lambda: write_synced(link, "new"),
        lambda: append_to(link).close(),
    ):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        write()
        assert not link.is_symlink() and target.read_text() == KEPT


def test_an_error_while_a_file_is_replaced_leaves_it_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(KEPT)
    with pytest.raises(ZeroDivisionError), replacing(path) as draft:
        draft.write_text("half")
        raise ZeroDivisionError
    assert [*tmp_path.iterdir()] == [path] and path.read_text() == KEPT


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_files_have_the_mode_of_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        replace_text(tmp_path / "file", "")
        append_to(tmp_path / "log").close()
        RunDirectory(tmp_path).lock().close()
        assert usual_mode(tmp_path) == 0o666 & ~umask
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {0o666 & ~umask}


def test_a_run_leaves_the_targets_of_links_at_every_name_that_it_writes(
    tiny: Run, tmp_path: Path
) -> None:
    """Each file of a finished run is replaced by a link to a file of somebody else, and each folder
    by a link to a folder with files of somebody else, the run folder too; a run in this folder,
    from the beginning, then trains and saves past them."""
    folder, elsewhere, folders = tmp_path / "run", tmp_path / "elsewhere", tmp_path / "folders"
    elsewhere.mkdir()
    shutil.copytree(tiny.folder, folders / "run")
    folder.symlink_to(folders / "run")
    shutil.rmtree(folder / "tensorboard")
    for path in sorted((folders / "run").rglob("*")):
        if path.is_dir() or path.name == ".lock":
            continue
        target = elsewhere / str(path.relative_to(folders / "run")).replace("/", "-")
        # A manifest of other text would be damage; a checkpoint without one is incomplete.
        if path.name != MANIFEST:
            target.write_text(KEPT)
        path.unlink()
        path.symlink_to(target)
    assert (folder / "checkpoints" / TRACKER).is_symlink()
    for name in ("logs", "checkpoints", "tensorboard", "profile"):
        if (folder / name).exists():
            (folder / name).rename(folders / name)
        (folders / name / "others").mkdir(parents=True)
        (folder / name).symlink_to(folders / name)
        for other in ("file", "others/file", "profile.txt", "events.out.tfevents"):
            (folders / name / other).write_text(KEPT)
    (folder / "checkpoints" / "iter_0000003").symlink_to(folders / "logs" / "others")
    run = start("tiny", "checkpoint.save_interval=1", "--profile", folder=folder)
    assert run.code == 0, run.screen + run.errors
    changed = [path.name for path in elsewhere.iterdir() if path.read_text() != KEPT]
    assert not changed
    assert {path.name for path in elsewhere.iterdir()} >= {"summary.json", "loss.png"}
    for name in ("logs", "checkpoints", "tensorboard", "profile"):
        assert (folder / name).is_symlink()
        assert (folders / name / "file").read_text() == KEPT
        assert (folders / name / "others" / "file").read_text() == KEPT
        assert len([*(folders / name).iterdir()]) > 4, "the run writes here"
    assert not (folder / "checkpoints" / "iter_0000003").is_symlink()
    assert folder.is_symlink()
