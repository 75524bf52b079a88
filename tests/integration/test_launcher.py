"""The launcher ends a run as a whole: by its cause where a rank dies, by a signal to itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from mimo_core.launch.rank_env import free_port

from ..helpers.runs import TIMEOUT, command, start

pytestmark = pytest.mark.usefixtures("real_nurseries")
ENDLESS = ("train.iterations=100000", "checkpoint.save_interval=3")


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
        for process in psutil.Process(launcher.pid).children(recursive=True)
        if process.name() == "mimo rank 0"
    ]
    ranks[0].send_signal(signal.SIGKILL)
    _, errors = launcher.communicate(timeout=1800)
    assert launcher.returncode == 1
    assert "rank 0 (vision) was ended by signal SIGKILL" in errors
    wait_for(lambda: not processes(folder))
    resumed = start("tiny", "train.iterations=2", folder=folder)
    assert resumed.code == 2, "what was saved is beyond the new end"
    assert resumed.errors.endswith(" [checkpoint.beyond-end]\n")


def test_a_lost_terminal_ends_all_ranks(
    endless: tuple[subprocess.Popen[str], Path],
) -> None:
    launcher, folder = endless
    launcher.send_signal(signal.SIGHUP)
    _, errors = launcher.communicate(timeout=1800)
    assert launcher.returncode == 130
    assert "all ranks have ended" in errors
    assert not processes(folder)


def test_ctrl_c_ends_all_ranks_where_the_process_that_forked_them_is_stopped(
    endless: tuple[subprocess.Popen[str], Path],
) -> None:
    launcher, folder = endless
    (nursery,) = psutil.Process(launcher.pid).children()
    nursery.suspend()
    launcher.send_signal(signal.SIGHUP)  # as Ctrl-C, which shells let background jobs ignore
    _, errors = launcher.communicate(timeout=1800)
    assert launcher.returncode == 130
    assert "all ranks have ended" in errors
    assert not processes(folder)


def test_ctrl_c_on_a_terminal_ends_the_run_and_leaves_the_terminal_as_it_was(
    tmp_path: Path,
) -> None:
    folder, seen = tmp_path / "run", b""
    # As a shell starts a program, also where the tests run in the background, without SIGINT.
    spawn = "import os, pty, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    spawn += "sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    user = subprocess.Popen(
        [sys.executable, "-c", spawn, *command("tiny", *ENDLESS, folder=folder)],
        env={**os.environ, "TERM": "xterm"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    )
    assert user.stdin is not None and user.stdout is not None
    bound = threading.Timer(TIMEOUT, user.kill)
    bound.start()
    while more := user.stdout.read(65536):
        if b"tokens/s" in more and b"tokens/s" not in seen:
            user.stdin.write(b"\x03")
        seen += more
    bound.cancel()
    assert user.wait() == 130
    hidden, shown = seen.rfind(b"\x1b[?25l"), seen.rfind(b"\x1b[?25h")
    assert 0 < hidden < shown, "the cursor"
    assert seen.rstrip().endswith(b"stopped; all ranks have ended")
    assert not processes(folder)


def test_a_run_folder_is_for_one_run_and_a_killed_launcher_takes_its_ranks_along(
    endless: tuple[subprocess.Popen[str], Path],
) -> None:
    launcher, folder = endless
    second = start("tiny", *ENDLESS, folder=folder)
    assert (second.code, launcher.poll()) == (2, None)
    in_use = " [run.in-use]\n"
    assert str(folder) in second.errors and second.errors.endswith(in_use)
    # Nor do ranks that something else starts write there, nor end this run.
    environ = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    others = [
        subprocess.Popen(
            command("tiny", folder=folder),
            env={**os.environ, **environ, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in ("0", "1")
    ]
    said = [other.communicate(timeout=TIMEOUT)[0] for other in others]
    assert [other.returncode for other in others] == [1, 1] and launcher.poll() is None
    assert in_use in said[0]
    assert not list((folder / "logs").glob("*.json"))
    logs = [(folder / "logs" / f"rank-{rank}.log").read_text() for rank in (0, 1)]
    assert [log.count("=====") for log in logs] == [1, 1], "a part for each attempt to run"
    assert not any("in use" in log for log in logs)
    launcher.kill()
    launcher.wait()
    wait_for(lambda: not processes(folder))


@pytest.mark.long
def test_a_run_goes_on_for_longer_but_not_with_another_model(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    given = ("--no-plugin", "lora", "--max-restarts", "2")
    begun = start("tiny", "megatron.exit_interval=3", *given, folder=folder)
    assert begun.code == 0, begun.screen + begun.errors
    *_, told, said = begun.screen.splitlines()
    assert told == "  stopped after iteration 3 of 4: not finished; go on:"
    due = f"    mimo-pretrain {folder}/recipe.yaml --run-dir {folder} {' '.join(given)}"
    assert said == due
    changed = ("train.iterations=6", "data.overlength=truncate")
    longer = start(folder / "recipe.yaml", *changed, folder=folder)
    assert longer.code == 0, longer.screen + longer.errors
    assert "data.overlength: saved with error, now truncate" in longer.screen
    assert "not finished" not in longer.screen and longer.summary["finished"]
    assert [row["iteration"] for row in longer.summary["iterations"]] == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "run" / "recipe.earlier-1.yaml").exists()
    for change, said in (
        ("modules.vision.options.layers=2", "modules.vision.options.layers: saved with 1, now 2"),
        ("train.global_batch_size=8", "train.global_batch_size: saved with 16, now 8"),
        ("megatron.seq_length=8", "[megatron.refused-flag]"),
    ):
        refused = start("tiny", "train.iterations=6", change, folder=tmp_path / "run")
        assert refused.code == 2
        assert said in refused.errors
