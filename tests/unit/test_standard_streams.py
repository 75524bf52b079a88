"""Commands whose stdout or stderr is closed, full, broken or of another encoding."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mimo_core.launch.exit_handling import LAUNCHED, Ending
from mimo_core.launch.failure import Failure
from mimo_core.launch.rank_env import Rank
from mimo_core.reporting.run_directory import RunDirectory
from mimo_core.utils.standard_streams import Stream, pair, usable_streams

from ..helpers.paths import RECIPES
from ..helpers.runs import TIMEOUT, command

PLAN = [sys.executable, "-m", "mimo_core.cli.mimo", "plan", str(RECIPES / "tiny.yaml")]


def shell(words: list[str], redirection: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirection}', "bash", *words],
        env={**os.environ, **environ},
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252"])
def test_a_plan_is_shown_in_any_encoding(encoding: str) -> None:
    shown = shell(PLAN, "", PYTHONIOENCODING=encoding)
    assert shown.returncode == 0, shown.stderr
    text = shown.stdout.decode(encoding)
    assert "language" in text and "vision" in text and "\\u" not in text


def test_a_plan_that_cannot_be_written_says_so() -> None:
    full = shell(PLAN, ">/dev/full")
    assert full.returncode == 2
    assert full.stderr == b"stdout cannot be written any more (No space left on device)\n"
    closed = shell(PLAN, ">&- 2>&-")
    assert closed.returncode == 0
    left = shell(PLAN, "| head -1")
    assert (left.returncode, left.stdout.count(b"\n"), left.stderr) == (0, 1, b"")


def test_a_narrow_terminal_cuts_no_number() -> None:
    narrow, wide = (shell(PLAN, "", COLUMNS=columns).stdout for columns in ("20", "80"))
    assert narrow == wide


def test_arguments_that_are_no_text_are_refused() -> None:
    done = shell(PLAN, "$'modules.vision.plugin=\\xff'")
    assert done.returncode == 2
    said = done.stderr.decode()
    assert said.startswith("modules.vision.plugin=\\udcff: not text in utf-8")
    assert said.endswith(" [command.not-text]\n") and said.count("\n") == 1


@pytest.mark.parametrize("redirection", [">/dev/full", ">&- 2>&-", "2>/dev/full | head -1"])
def test_a_run_goes_on_without_a_screen(redirection: str, tmp_path: Path) -> None:
    words = command("tiny", "train.iterations=1", folder=tmp_path / "run")
    done = shell(words, redirection, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert '"finished": true' in (tmp_path / "run" / "summary.json").read_text()
    if redirection == ">/dev/full":
        assert (
            b"stdout cannot be written any more (No space left on device): the run" in done.stderr
        )


class Broken(io.StringIO):
    """A stream that cannot be written."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_the_loss_of_stdout_is_reported_once() -> None:
    errors = io.StringIO()
    out, _ = pair(Broken(), errors, "the run goes on")
    print("one", file=out)
    print("two", file=out)
    assert errors.getvalue() == "stdout cannot be written any more (Broken pipe): the run goes on\n"


def test_a_failure_is_left_to_the_launcher_where_nothing_can_be_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LAUNCHED, "0")
    monkeypatch.setattr(sys, "stderr", Broken())
    rank = Rank(rank=1, local_rank=1, world_size=2)
    folder = RunDirectory(tmp_path)
    screen = Stream(Broken(), lambda _error: None)
    ending = Ending(rank=rank, label="rank 1", folder=folder, screen=screen, logged=True)  # type: ignore[arg-type]
    ending.tell(ending.failure(RuntimeError("the cause")))
    left = Failure.from_json(folder.failure(1).read_text(), folder)
    assert left.message == "RuntimeError: the cause"


def test_the_streams_of_the_process_are_given_back() -> None:
    before = sys.stdout, sys.stderr
    with usable_streams():
        assert sys.stdout is not before[0]
    assert (sys.stdout, sys.stderr) == before
