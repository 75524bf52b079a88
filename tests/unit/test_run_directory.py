"""The folder of a run: names that do not collide, files that are never half there."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from mimo_core.reporting.run_directory import RunDirectory

from ..helpers.problems import refused


@pytest.fixture
def folder(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path)


def test_the_summary_is_read_back_and_replaced(folder):
    assert folder.read_summary() is None
    folder.write_summary({"iterations": [{"iteration": 1, "loss": None}]})
    folder.write_summary({"iterations": [], "name": "größe"})
    assert folder.read_summary() == {"iterations": [], "name": "größe"}
    assert json.loads(folder.summary.read_text()) == folder.read_summary()
    assert [path.name for path in folder.path.iterdir()] == ["summary.json"]


def test_the_summary_is_json_where_a_number_is_not_finite(folder):
    row = {"loss": float("nan"), "norms": {"vision": float("inf"), "words": (1.5, 2)}}
    written = folder.write_summary({"iterations": [row], "speed": -float("inf")})
    due = {"loss": None, "norms": {"vision": None, "words": [1.5, 2]}}
    assert written == {"iterations": [due], "speed": None}
    assert folder.read_summary() == written


def test_the_command_that_goes_on_has_the_options_that_were_given(tmp_path):
    folder = RunDirectory(Path("my runs/one"))
    assert folder.resume_command(["lora", "mock"], 3) == (
        "mimo-pretrain 'my runs/one/recipe.yaml' --run-dir 'my runs/one' "
        "--no-plugin lora --no-plugin mock --max-restarts 3"
    )


def test_a_reader_never_sees_half_a_summary(folder, monkeypatch: pytest.MonkeyPatch):
    """The old one stays when writing the new one is cut off, at any byte."""
    folder.write_summary({"loss": 1.0})
    write = Path.write_text

    def cut_off(self: Path, data: str, *args, **kwargs):
        write(self, data[: len(data) // 2], *args, **kwargs)
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", cut_off)
    with pytest.raises(OSError, match="disk full"):
        folder.write_summary({"loss": 2.0})
    assert folder.read_summary() == {"loss": 1.0}
    monkeypatch.undo()
    folder.write_summary({"loss": 3.0})
    assert folder.read_summary() == {"loss": 3.0}


def test_runs_of_the_same_second_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda form: "20260102-030405")
    names = []
    for _ in range(3):
        fresh = RunDirectory.fresh("demo", tmp_path)
        assert not fresh.path.exists()
        fresh.path.mkdir()
        names.append(fresh.path.name)
    assert names == [f"demo-20260102-030405{end}" for end in ("", "-2", "-3")]
    monkeypatch.chdir(tmp_path)
    assert RunDirectory.fresh("demo").path == Path("runs/demo-20260102-030405")


def test_every_rank_has_files_of_its_own(folder):
    paths = [getattr(folder, kind)(rank) for kind in ("log", "failure") for rank in range(12)]
    assert len(set(paths)) == 24
    assert {path.parent for path in paths} == {folder.logs}


def test_a_damaged_summary_is_put_aside(tmp_path: Path) -> None:
    folder = RunDirectory(tmp_path)
    folder.summary.write_text('{"a": ')
    assert folder.read_summary() is None
    assert (tmp_path / "summary.damaged.json").read_text() == '{"a": '


def test_a_name_that_looks_like_an_option_is_given_to_ranks_as_a_path() -> None:
    folder = RunDirectory(Path("-x"))
    assert folder.path == Path.cwd() / "-x" and not str(folder.recipe).startswith("-")
    assert RunDirectory(Path("runs/-x")).path == Path("runs/-x")


def test_a_folder_that_cannot_hold_checkpoints_is_told_before(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with refused("checkpoint.not-writable", folder=str(tmp_path / "file" / "inner")):
        RunDirectory(tmp_path).try_checkpoints("file/inner")
    RunDirectory(tmp_path).try_checkpoints(None)
