"""Starts all ranks of a run on this machine, and ends them together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mimo_core.launch.worker import LAUNCHED
from mimo_core.plan import Plan
from mimo_core.rank import free_port
from mimo_core.recipe import dump
from mimo_core.run_folder import RunFolder

_GRACE = 5.0
"""Seconds that ranks have to end after SIGTERM."""


class RunFailed(RuntimeError):
    """A rank failed; the message is what a person should read."""


def launch(plan: Plan, folder: RunFolder, disabled: Sequence[str] = ()) -> dict[str, Any]:
    """Run a plan on ranks of this machine.

    Args:
        plan: What to run.
        folder: The run's folder.
        disabled: Plugins that ranks must not import.

    Returns:
        The run's summary.

    Raises:
        RunFailed: a rank failed; says which, and its last lines.
        KeyboardInterrupt: after all ranks have ended.
    """
    try:
        _prepare(plan, folder)
    except OSError as error:
        raise ValueError(f"--run-dir {folder.path} cannot be used: {error}") from error
    command = [sys.executable, "-m", "mimo_core.cli.pretrain", str(folder.recipe)]
    command += ["--run-dir", str(folder.path)]
    for name in disabled:
        command += ["--no-plugin", name]
    port = free_port()
    ranks = [
        subprocess.Popen(command, env=_environment(plan, rank, port), start_new_session=True)
        for rank in range(plan.layout.world_size)
    ]
    killed: list[int] = []
    with _terminated_as_interrupted():
        try:
            killed = _wait(ranks)
        finally:
            _end(ranks)
    if any(process.returncode for process in ranks):
        raise RunFailed(_cause(plan, folder, ranks, killed))
    summary = folder.read_summary()
    assert summary is not None, "the reporting rank ended well without a summary"
    return summary


def _prepare(plan: Plan, folder: RunFolder) -> None:
    """The folder, with the recipe that the ranks read."""
    folder.logs.mkdir(parents=True, exist_ok=True)
    folder.keep_recipe(dump(plan.recipe))
    for rank in range(plan.layout.world_size):
        folder.failure(rank).unlink(missing_ok=True)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM and SIGHUP end the run as Ctrl-C does: with all its ranks."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    kept = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _environment(plan: Plan, rank: int, port: int) -> dict[str, str]:
    return os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(plan.layout.world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        LAUNCHED: str(time.time()),
    }


def _wait(ranks: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """Until all ranks have ended, or one has failed. Gives those that a signal ended."""
    while any(process.poll() is None for process in ranks):
        if any(process.poll() for process in ranks):
            break
        time.sleep(0.05)
    return [rank for rank, process in enumerate(ranks) if (process.returncode or 0) < 0]


def _end(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """End what still runs, with all that it started."""
    for process in ranks:
        if process.poll() is None:
            _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE
    for process in ranks:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
    for process in ranks:
        # The rank, if it still runs, and whatever it left behind: its group outlives it.
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _cause(
    plan: Plan, folder: RunFolder, ranks: Sequence[subprocess.Popen[bytes]], killed: Sequence[int]
) -> str:
    """What went wrong first, in the words of the rank that it happened to."""
    if killed:
        name = signal.Signals(-ranks[killed[0]].returncode).name
        hint = "; the system does so where memory is short (see dmesg)" if name == "SIGKILL" else ""
        return (
            f"{plan.layout.label(killed[0])} was ended by signal {name}{hint}\n\n"
            f"its log: {folder.log(killed[0])}"
        )
    failures = []
    for rank in range(len(ranks)):
        path = folder.failure(rank)
        if path.exists():
            failures.append((json.loads(path.read_text()), rank))
    if failures:
        first, rank = min(failures, key=lambda failure: failure[0]["time"])
        kind = "" if first["expected"] else f"{first['error']}: "
        told = [f"{first['rank']} failed: {kind}{first['message']}"]
        if not first["expected"]:
            told += ["", *_last_lines(folder.log(rank))]
        if folder.log(rank).exists():
            told += ["", f"its log: {folder.log(rank)}"]
        return "\n".join(told)
    rank = next(rank for rank, process in enumerate(ranks) if process.returncode)
    how = f"ended with {ranks[rank].returncode}"
    lines = _last_lines(folder.log(rank))
    return "\n".join(
        [f"{plan.layout.label(rank)} {how}", "", *lines, "", f"its log: {folder.log(rank)}"]
    )


def _last_lines(log: Path, count: int = 15) -> list[str]:
    if not log.exists():
        return []
    return [f"  | {line}" for line in log.read_text(errors="replace").splitlines()[-count:]]
