"""Starts all ranks of a run on this machine, and ends them together."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import attrs

from mimo_core.launch.ending import LAUNCHED
from mimo_core.launch.failure import Failure
from mimo_core.plan import Plan
from mimo_core.rank import free_port
from mimo_core.recipe import dump
from mimo_core.run_folder import RunFolder

_GRACE = 5.0
"""Seconds that ranks have to end after SIGTERM."""


_LITTLE = 1 << 20
"""Bytes of a disk that is as good as full."""


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
        lock = folder.lock()
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
    with _terminated_as_interrupted():
        try:
            failed = _wait(ranks)
        finally:
            _end(ranks)
            lock.close()
            if sys.stdout.isatty():
                # The progress line of a rank that was ended midway leaves it hidden.
                print("\x1b[?25h", end="", flush=True)
    if failed:
        raise RunFailed(_cause(plan, folder, failed))
    summary = folder.read_summary()
    if summary is None:
        raise RunFailed(
            "all ranks ended with exit code 0, but before the end of the run: something in them "
            f"ended their processes (logs: {folder.logs})"
        )
    return summary


def _prepare(plan: Plan, folder: RunFolder) -> None:
    """The folder, with the recipe that the ranks read."""
    folder.logs.mkdir(parents=True, exist_ok=True)
    folder.keep_recipe(dump(plan.recipe))
    if plan.recipe.checkpoint.save:
        folder.try_checkpoints(plan.recipe.checkpoint.directory)
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


def _wait(ranks: Sequence[subprocess.Popen[bytes]]) -> dict[int, int]:
    """Until all ranks have ended, or one has failed. Gives the exit codes of failed ranks."""
    while True:
        running = any(process.poll() is None for process in ranks)
        failed = {rank: process.returncode for rank, process in enumerate(ranks)}
        failed = {rank: code for rank, code in failed.items() if code}
        if failed or not running:
            return failed
        time.sleep(0.05)


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


def _cause(plan: Plan, folder: RunFolder, codes: Mapping[int, int]) -> str:
    """What went wrong first, in the words of the rank that it happened to.

    Args:
        plan: What was run.
        folder: The run's folder, where ranks leave the first failure that they know of.
        codes: Exit codes of the ranks that had failed before the launcher ended any.
    """
    left = [folder.failure(rank) for rank in range(plan.layout.world_size)]
    told = [Failure.from_json(path.read_text()) for path in left if path.exists()]
    if told:
        first = min(told, key=lambda failure: failure.time)
        if first.silent and first.rank in codes:
            first = attrs.evolve(first, message=_how(codes[first.rank]))
    else:
        rank = min(codes, key=lambda rank: (codes[rank] > 0, rank))
        full = shutil.disk_usage(folder.path).free < _LITTLE
        first = Failure(
            rank=rank,
            label=plan.layout.label(rank),
            message=_how(codes[rank]) + (f"; the disk of {folder.path} is full" if full else ""),
            log=str(folder.log(rank)),
            silent=True,
        )
    return first.text()


def _how(code: int) -> str:
    """How a process ended that did not say why."""
    if code >= 0:
        return f"ended with exit code {code}, without a word"
    name = signal.Signals(-code).name
    hint = "; the system does so where memory is short (see dmesg)" if name == "SIGKILL" else ""
    return f"was ended by signal {name}{hint}"
