"""The rank processes of one attempt at a run on this machine."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import attrs

from mimo_core.launch.exit_handling import DISK_FULL, NOTHING_DONE
from mimo_core.launch.failure import Failure
from mimo_core.launch.fork_server import ForkedProcess, ForkServer
from mimo_core.launch.preflight import full_places
from mimo_core.launch.protocol import TOKEN, Malformed, new_token
from mimo_core.launch.rank_env import free_port
from mimo_core.planning.plan import Plan
from mimo_core.reporting.run_directory import RunDirectory

_ENTRY = "mimo_core.cli.pretrain:main"
WARM = (
    *("mimo_core.cli.pretrain", "mimo_core.launch.rank_main", "mimo_core.train.trainer"),
    *("mimo_core.reporting.console", "torch._dynamo"),  # optimizers import the last
)
"""What a run's nursery imports, where there is no GPU."""
_GRACE = 5.0
"""Seconds that ranks have to end by themselves where one has failed, and to say why."""
_KILLED = 60.0
"""Seconds within which a killed rank is gone, with all that it holds of a GPU; a nursery that is
stopped is noticed before."""


def nursery_of(folder: RunDirectory) -> ForkServer:
    """Where this run's ranks come from; it begins to import at once."""
    return ForkServer(WARM, told=str(folder.path))


def attempt(
    nursery: ForkServer,
    plan: Plan,
    folder: RunDirectory,
    disabled: Sequence[str],
    environment: Mapping[str, str],
    stopping: Callable[[], bool],
) -> Failure | None:
    """Start all ranks and wait for their end.

    Args:
        nursery: Where ranks come from.
        plan: What to run.
        folder: The run's folder, prepared.
        disabled: Plugins that ranks must not import.
        environment: What ranks are told beside their place.
        stopping: Whether the ranks are to stop, by SIGTERM.

    Returns:
        What went wrong first, or that the run was stopped before an iteration was done (``code``
        0); ``None`` where all ranks ended well. No rank is left in any case.
    """
    for rank in range(plan.layout.world_size):
        folder.failure(rank).unlink(missing_ok=True)
    command = ["mimo-pretrain", str(folder.recipe), "--run-dir", str(folder.path)]
    for name in disabled:
        command += ["--no-plugin", name]
    port, token = free_port(), new_token()
    ranks: list[ForkedProcess] = []
    try:
        for rank in range(plan.layout.world_size):
            environ = {**os.environ, **_place(plan, rank, port), **environment, TOKEN: token}
            ranks.append(nursery.start(_ENTRY, command, environ, name=f"mimo rank {rank}"))
        codes = _wait(ranks, stopping)
        _let_end(ranks)
    finally:
        _end(ranks)
        with suppress(OSError, ValueError):
            if sys.stdout.isatty():
                # The progress line of a rank that was ended midway leaves it hidden.
                print("\x1b[?25h", end="", flush=True)
    return _first(plan, folder, codes, stopping())


def _place(plan: Plan, rank: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(plan.layout.world_size),
        "LOCAL_WORLD_SIZE": str(plan.layout.world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _wait(ranks: Sequence[ForkedProcess], stopping: Callable[[], bool]) -> dict[int, int]:
    """Until all ranks have ended, or one has failed. Gives the exit codes of failed ranks."""
    told = False
    while True:
        running = any(process.poll() is None for process in ranks)
        failed = {
            rank: process.returncode for rank, process in enumerate(ranks) if process.returncode
        }
        if failed or not running:
            return failed
        if stopping() and not told:
            told = True
            for process in ranks:
                process.terminate()
        time.sleep(0.05)


def _let_end(ranks: Sequence[ForkedProcess]) -> None:
    deadline = time.monotonic() + _GRACE
    while any(process.poll() is None for process in ranks) and time.monotonic() < deadline:
        time.sleep(0.02)


def _end(ranks: Sequence[ForkedProcess]) -> None:
    """End what still runs: a rank, and whatever it left behind, as its group outlives it."""
    for process in ranks:
        process.kill_group()
    deadline = time.monotonic() + _KILLED
    for process in ranks:
        if process.wait(max(0.0, deadline - time.monotonic())) is None:
            process.nursery.kill()


def _first(
    plan: Plan, folder: RunDirectory, codes: Mapping[int, int], stopping: bool
) -> Failure | None:
    """What went wrong first, in the words of the rank that it happened to.

    Args:
        plan: What was run.
        folder: The run's folder, where ranks leave the first failure that they know of.
        codes: Exit codes of the ranks that had failed before the launcher ended any.
        stopping: Whether the ranks were told to stop.
    """
    left = [folder.failure(rank) for rank in range(plan.layout.world_size)]
    told = [failure for path in left if (failure := _left(path, folder)) is not None]
    if told:
        first = min(told, key=lambda failure: failure.time)
        # A rank that is killed early could not yet say which it is.
        first = attrs.evolve(first, label=plan.layout.rank_label(first.rank))
        if first.silent and not first.hung and first.rank in codes:
            first = attrs.evolve(first, message=_how(codes[first.rank]))
        return first
    if not codes:
        return None
    rank = min(codes, key=lambda rank: (codes[rank] > 0, rank))
    failure = Failure(
        rank=rank,
        label=plan.layout.rank_label(rank),
        message="",
        log=str(folder.log(rank)),
        silent=True,
    )
    if stopping and codes[rank] == -signal.SIGTERM:
        # A rank catches it as soon as it has begun.
        return attrs.evolve(failure, message=NOTHING_DONE, code=0, log=None)
    if codes[rank] > 0 and folder.path in full_places(folder.path):
        message = f"ended, and could not leave word: the disk of {folder.path} is full (see above)"
        return attrs.evolve(
            failure,
            message=f"{message} [{DISK_FULL}]",
            log=None,
            expected=True,
            error_code=DISK_FULL,
        )
    return attrs.evolve(failure, message=_how(codes[rank]))


def _left(path: Path, folder: RunDirectory) -> Failure | None:
    """What a rank has left of its failure, if it can be read."""
    try:
        return Failure.from_json(path.read_bytes(), folder)
    except (OSError, Malformed):
        return None


def _how(code: int) -> str:
    """How a process ended that did not say why."""
    if code >= 0:
        return f"ended with exit code {code}, without a word"
    name = signal.Signals(-code).name
    hint = "; the system does so where memory is short (see dmesg)" if name == "SIGKILL" else ""
    return f"was ended by signal {name}{hint}"
