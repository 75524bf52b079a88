"""One rank: its log, its part of the run, and what it leaves behind when it fails."""

from __future__ import annotations

import ctypes
import datetime
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import IO, Any

from mimo_core.plan import Plan
from mimo_core.rank import Rank
from mimo_core.recipe import dump
from mimo_core.run_folder import RunFolder
from mimo_core.train.going_on import iterations_done

LAUNCHED = "MIMO_LAUNCHED"
"""When our launcher started this rank (seconds of the epoch); it has shown the run's header."""

MEETING_TIMEOUT = datetime.timedelta(minutes=10)


def run_rank(plan: Plan, rank: Rank, folder: RunFolder) -> dict[str, Any] | None:
    """Run one rank to its end.

    Where it fails, the process ends at once with exit code 1, its process groups as they are:
    taking them down would wait for ranks that wait for this one. Its launcher ends the others.

    Args:
        plan: What to run, the same on all ranks.
        rank: This rank.
        folder: The run's folder; rank 0's counts.

    Returns:
        The run's summary on the rank that reports, ``None`` on the others.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # The stock argument check asks for it where tp or cp overlap with compute.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    rank.export()
    if os.environ.get(LAUNCHED):
        _end_with_the_parent()
    os.register_at_fork(after_in_child=_end_with_the_parent)
    screen: IO[str] = sys.stdout
    try:
        from mimo_core import platforms

        platform = platforms.select(rank.local_rank)
        from mimo_core.train.meeting import meet

        meeting = meet(plan, rank, str(folder.path), MEETING_TIMEOUT)
        folder = RunFolder(Path(meeting.note))
        if rank.rank == 0 and not os.environ.get(LAUNCHED):
            iterations_done(plan, folder)
            folder.keep_recipe(dump(plan.recipe))
        screen = _divert_output(folder.log(rank.rank))
        from mimo_core.train.adaptations import prepare_checkpoint_queue

        prepare_checkpoint_queue()
        meeting.open(platform.backend)
        return _run(plan, rank, folder, platform, screen, meeting.plugins)
    except BaseException as error:
        _leave_failure(folder, rank, plan, error, screen)
        os._exit(1)


def _run(
    plan: Plan, rank: Rank, folder: RunFolder, platform: Any, stream: IO[str], plugins: Any
) -> dict[str, Any] | None:
    import psutil
    import torch.distributed as dist

    from mimo_core.report.reporter import Reporter
    from mimo_core.report.screen import Screen
    from mimo_core.train.answers import reporting_rank
    from mimo_core.train.engine import Engine

    if rank.rank != reporting_rank(plan):
        engine = Engine(plan, platform, folder, None)
        engine.run()
        engine.finish()
        dist.destroy_process_group()
        return None
    train = plan.recipe.train
    with Screen(stream, train.iterations, train.log_every) as screen:
        if not os.environ.get(LAUNCHED):
            from mimo_core.report.header import run_header

            screen.console.print(run_header(plan))
        facts = {"platform": platform.name, "world_size": rank.world_size, "plugins": plugins}
        tokens = train.global_batch_size * train.sequence_length
        started = float(os.environ.get(LAUNCHED) or psutil.Process().create_time())
        reporter = Reporter(
            folder=folder, screen=screen, tokens=tokens, facts=facts, started=started
        )
        engine = Engine(plan, platform, folder, reporter)
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
    return summary


def _end_with_the_parent() -> None:
    """Have the kernel end this process where its parent is gone, however that ended (Linux):
    a rank with its launcher, loader workers and the checkpoint queue with their rank."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def _divert_output(log: Path) -> IO[str]:
    """Everything that this process prints goes to its log; gives the screen it had."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    screen = os.fdopen(os.dup(1), "w", buffering=1)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    return screen


def _leave_failure(
    folder: RunFolder, rank: Rank, plan: Plan, error: BaseException, screen: IO[str]
) -> None:
    """Say why: all of it to the log, the rest to the launcher or, without ours, to the screen."""
    expected = isinstance(error, ValueError)
    logged = folder.log(rank.rank).exists()
    if logged or not expected:
        traceback.print_exception(error)
    if not os.environ.get(LAUNCHED):
        place = f"\nits log: {folder.log(rank.rank)}" if logged else ""
        print(f"{plan.layout.label(rank.rank)}: {error}{place}", file=screen)
    sys.stderr.flush()
    screen.flush()
    failure = {
        "time": time.time(),
        "rank": plan.layout.label(rank.rank),
        "error": type(error).__name__,
        "message": str(error),
        "expected": expected,
    }
    path = folder.failure(rank.rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(failure))
    draft.replace(path)
