"""One rank: its log, its part of the run, and what it leaves behind when it fails."""

from __future__ import annotations

import ctypes
import datetime
import faulthandler
import gc
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any

from mimo_core import platforms
from mimo_core.checkpoint.compatibility import find_resumable_checkpoint
from mimo_core.checkpoint.directory import checkpoint_path, fallback_hint, newest
from mimo_core.errors import (
    CheckpointError,
    DiskFullError,
    RecipeError,
    code_of,
    text_of,
    values_of,
)
from mimo_core.launch.exit_handling import (
    DISK_FULL,
    DISK_FULL_THRESHOLD_BYTES,
    LAUNCHED,
    MAX_RESTARTS,
    NOTHING_DONE,
    RESTARTS,
    Ending,
    lacks_room,
)
from mimo_core.launch.failure import PART, Failure
from mimo_core.launch.heartbeat import Limits
from mimo_core.launch.plugin_consistency import compare_answers
from mimo_core.launch.preflight import full_places, short_sockets
from mimo_core.launch.rank_env import Rank
from mimo_core.launch.version_check import compare_plugins
from mimo_core.planning.plan import Plan
from mimo_core.plugins import Host
from mimo_core.recipe import dump
from mimo_core.reporting.run_directory import RunDirectory
from mimo_core.utils.environment import THREADS
from mimo_core.utils.safe_files import append_to
from mimo_core.utils.signals import Termination
from mimo_core.utils.standard_streams import pair

RENDEZVOUS_TIMEOUT = datetime.timedelta(minutes=10)
_OWNED = "mimo/folder"
"""Key of the store, there once the run has its folder."""
_SECONDARY_FAILURE_DELAY_S = 1.0
"""Seconds that a rank waits before it tells of an error that another's sudden end may have caused:
that end is then told first."""


def run_rank(
    make_plan: Callable[[Host], Plan],
    rank: Rank,
    folder: RunDirectory,
    disabled: Sequence[str] = (),
) -> dict[str, Any] | None:
    """Run one rank to its end.

    Where it fails, all other ranks are told and the process ends at once with exit code 1, its
    process groups as they are: taking them down would wait for ranks that wait for this one.
    SIGTERM to any rank ends all of them with exit code 0, see :class:`Termination`.

    Args:
        make_plan: Gives what to run with these plugins, the same on all ranks.
        rank: This rank.
        folder: The run's folder; rank 0's counts.
        disabled: Installed plugins to leave out.

    Returns:
        The run's summary on the rank that reports, ``None`` on the others.
    """
    # As in a nursery: while everything is imported, nothing of it is garbage.
    gc.disable()
    os.environ[THREADS] = os.environ.get(THREADS) or "1"
    # The stock argument check asks for it where tp or cp overlap with compute.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    rank.export()
    termination = Termination()
    if os.environ.get(LAUNCHED):
        _end_with_the_parent()
    os.register_at_fork(after_in_child=_end_with_the_parent)
    ending = Ending(rank=rank, label=f"rank {rank.rank}", folder=folder)
    watch = None
    try:
        from mimo_core.launch.supervisor_client import SupervisorClient

        short_sockets()

        watch = SupervisorClient.join(rank, folder, RENDEZVOUS_TIMEOUT, ending.tell)
        ending.folder = watch.folder
        _obey(termination, watch, ending)
        with nullcontext() if os.environ.get(LAUNCHED) else _own(watch, rank):
            screen, ending.screen = _divert_output(watch.folder.log(rank.rank))
            ending.logged = True
            when = time.strftime("%Y-%m-%d %H:%M:%S")
            print(f"{PART} {when}, rank {rank.rank} of {rank.world_size}")
            platforms.check()
            host = Host.discover(disabled)
            compare_plugins(host, rank, watch.store)
            plan = make_plan(host)
            ending.label = plan.layout.rank_label(rank.rank)
            watch.name_ranks(plan.layout.rank_label)
            wanted = plan.recipe.heartbeat
            watch.start_heartbeats(Limits(wanted.timeout_seconds, wanted.stall_seconds))
            compare_answers(plan, rank, watch.store)
            max_restarts = int(os.environ.get(MAX_RESTARTS, "0"))
            go_on = watch.folder.resume_command(disabled, max_restarts)
            summary = _meet_and_run(plan, rank, watch, screen, termination, go_on)
        watch.leave()
        return summary
    except BaseException as error:
        try:
            failure = ending.failure(error)
            if watch is None:
                ending.tell(failure)
            else:
                time.sleep(0.0 if failure.expected else _SECONDARY_FAILURE_DELAY_S)
                watch.fail(failure)
        finally:
            os._exit(1)


@contextmanager
def _own(watch: Any, rank: Rank) -> Iterator[None]:
    """The run's folder, for ranks without a launcher: rank 0 keeps other runs out of it, and until
    it does, no rank writes there.

    Raises:
        MimoError: another run is in it (rank 0).
    """
    with watch.folder.lock() if rank.rank == 0 else nullcontext():
        if rank.rank == 0:
            watch.store.set(_OWNED, "")
        watch.store.wait([_OWNED])
        yield


def _obey(termination: Termination, watch: Any, ending: Ending) -> None:
    """End all ranks where this one is told to by SIGTERM, and cannot wait for an iteration."""

    def failure(message: str, code: int) -> Failure:
        return Failure(
            rank=ending.rank.rank,
            label=ending.label,
            message=message,
            log=None,
            expected=True,
            screen=ending.rank.screen,
            code=code,
        )

    termination.join(
        leave=lambda: watch.stop(failure(f"was told to stop (SIGTERM) {NOTHING_DONE}", 0)),
        hurry=lambda: watch.fail(failure("was told to end again (SIGTERM) while it stopped", 1)),
    )


def _meet_and_run(
    plan: Plan,
    rank: Rank,
    watch: Any,
    screen: IO[str],
    termination: Termination,
    go_on: str,
) -> dict[str, Any] | None:
    folder = watch.folder
    if rank.rank == 0 and not os.environ.get(LAUNCHED):
        find_resumable_checkpoint(plan, folder)
        folder.keep_recipe(dump(plan.recipe))
        if plan.recipe.checkpoint.enabled:
            folder.try_checkpoints(plan.recipe.checkpoint.directory)
    checkpoints = folder.checkpoints(plan.recipe.checkpoint.directory)
    platform = platforms.select(rank.local_rank)
    from torch.distributed.checkpoint.api import CheckpointException

    from mimo_core.launch.rendezvous import check_same_recipe
    from mimo_core.megatron_patches.training_loop import prepare_checkpoint_queue

    meeting = check_same_recipe(plan, rank, watch.store, RENDEZVOUS_TIMEOUT)
    prepare_checkpoint_queue()
    meeting.open(platform)
    try:
        return _run(plan, rank, folder, platform, screen, termination, go_on)
    except (Exception, CheckpointException) as error:
        _explain(error, folder, checkpoints)
        raise


def _explain(error: BaseException, folder: RunDirectory, checkpoints: Path) -> None:
    """Say more where the stock loop failed over a checkpoint, or over a full disk.

    Raises:
        RecipeError: the newest one could not be loaded.
        DiskFullError: something of the run could not be written for want of room.
        OSError: a checkpoint could not be written for another reason.
    """
    if isinstance(error, CheckpointError):
        return
    functions = {frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)}
    done = newest(checkpoints).iteration
    if "load_checkpoint" in functions and done is not None:
        traceback.print_exception(error)
        path = checkpoint_path(checkpoints, done)
        message = f"{path}: {text_of(error)}; {fallback_hint(checkpoints, done)}"
        values = {**values_of(error), "checkpoint": str(path)}
        raise RecipeError(message, code=code_of(error, "checkpoint.not-loaded"), **values) from None
    kept = "there is no earlier one" if done is None else f"that of iteration {done} is whole"
    if "save_checkpoint" in functions:
        place = next(path for path in (checkpoints, *checkpoints.parents) if path.exists())
        free = shutil.disk_usage(place).free
        full = full_places()
        if lacks_room(error) and full and free >= DISK_FULL_THRESHOLD_BYTES:
            raise _full(f"{_named(full)} full: {error}; of the checkpoints, {kept}", full) from None
        what = f"a checkpoint could not be written to {checkpoints}, where {free / 1e9:.1f} GB"
        if free < DISK_FULL_THRESHOLD_BYTES or lacks_room(error):
            with suppress(OSError):
                traceback.print_exception(error)
            raise _full(f"{what} are free: the disk is full; {kept}", [place]) from None
        if isinstance(error, ValueError):
            # A mistake, such as of a plugin: no other attempt at saving would mend it.
            return
        said = f"{type(error).__name__}: {str(error).strip()}"
        raise OSError(f"{what} are free; {kept} ({said})") from error
    if lacks_room(error):
        full = full_places(folder.path)
        what = f"the disk of {folder.path} (or one that a plugin writes to) is"
        if full and folder.path not in full:
            what = _named(full)
        message = f"{what} full: {error}; of the checkpoints, {kept}"
        raise _full(message, full or [folder.path]) from None


def _full(message: str, places: Sequence[Path]) -> DiskFullError:
    return DiskFullError(message, code=DISK_FULL, places=tuple(map(str, places)))


def _named(places: Sequence[Path]) -> str:
    """``/dev/shm is``."""
    return f"{' and '.join(map(str, places))} {'is' if len(places) == 1 else 'are'}"


def _run(
    plan: Plan,
    rank: Rank,
    folder: RunDirectory,
    platform: Any,
    stream: IO[str],
    termination: Termination,
    go_on: str,
) -> dict[str, Any] | None:
    import psutil
    import torch.distributed as dist

    from mimo_core.reporting.console import Screen
    from mimo_core.reporting.summary import Reporter
    from mimo_core.train.sample_predictions import reporting_rank
    from mimo_core.train.trainer import Trainer

    gc.freeze()
    gc.enable()
    if rank.rank != reporting_rank(plan):
        engine = Trainer(plan, platform, folder, None, termination)
        engine.run()
        engine.finish()
        dist.destroy_process_group()
        return None
    train = plan.recipe.train
    with Screen(stream, train.iterations, train.log_interval) as screen:
        if not os.environ.get(LAUNCHED):
            from mimo_core.reporting.header import run_header

            screen.console.print(run_header(plan))
        facts = {
            "platform": platform.name,
            "world_size": rank.world_size,
            "plugins": plan.host.versions(),
        }
        started = float(os.environ.get(LAUNCHED) or psutil.Process().create_time())
        reporter = Reporter(
            folder=folder,
            screen=screen,
            facts=facts,
            started=started,
            save_interval=plan.recipe.checkpoint.save_interval,
            restarts=json.loads(os.environ.get(RESTARTS, "[]")),
        )
        engine = Trainer(plan, platform, folder, reporter, termination)
        engine.run()
        summary = engine.finish()
    dist.destroy_process_group()
    assert summary is not None
    screen.end(
        {
            "checkpoint": summary["checkpoint"] or "none was saved",
            "summary": folder.summary,
            "loss curve": folder.loss_picture,
            "TensorBoard": folder.tensorboard,
            "logs": folder.logs,
        }
    )
    if not summary["finished"]:
        saved = plan.recipe.checkpoint.enabled
        screen.stopped(reporter.reached, summary["stopped_by"], go_on if saved else None)
    return summary


def _end_with_the_parent() -> None:
    """Have the kernel end this process where its parent is gone, however that ended (Linux):
    a rank with its launcher, loader workers and the checkpoint queue with their rank."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def _divert_output(log: Path) -> tuple[IO[str], IO[str]]:
    """Everything that this process prints goes to its log; gives the stdout and stderr it had."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [
        os.fdopen(os.dup(number), "w", buffering=1, encoding=stream.encoding or "utf-8")
        for number, stream in ((1, sys.stdout), (2, sys.stderr))
    ]
    # A log that cannot be written ends the run: its disk is full.
    sys.stdout, sys.stderr = (getattr(one, "stream", one) for one in (sys.stdout, sys.stderr))
    with append_to(log) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(  # type: ignore[union-attr]
            line_buffering=True, encoding="utf-8", errors="backslashreplace"
        )
    faulthandler.enable()
    return pair(kept[0], kept[1], f"the run goes on; the log: {log}")  # type: ignore[return-value]
