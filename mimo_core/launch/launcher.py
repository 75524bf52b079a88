"""A run on this machine: its ranks, started again where they fail, and ended together."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from mimo_core.checkpoint.compatibility import find_resumable_checkpoint
from mimo_core.errors import MimoError, text_of
from mimo_core.launch.exit_handling import LAUNCHED, MAX_RESTARTS, NOTHING_DONE, RESTARTS
from mimo_core.launch.failure import Failure
from mimo_core.launch.fork_server import ForkServer, ForkServerError
from mimo_core.launch.local_ranks import attempt, nursery_of
from mimo_core.planning.plan import Plan
from mimo_core.recipe import dump
from mimo_core.reporting.run_directory import UNUSABLE, RunDirectory
from mimo_core.utils.signals import AGAIN
from mimo_core.utils.standard_streams import show

_ENDED_EARLY = "run.ended-early"


class RunFailedError(RuntimeError):
    """A rank failed; the message is what a person should read."""

    def __init__(self, message: str, *, code: str = "") -> None:
        """
        Args:
            message: With the code of the error, if it has one.
            code: Of the error that ended the run; empty for a crash.
        """
        super().__init__(message)
        self.code = code


def launch(
    plan: Plan,
    folder: RunDirectory,
    disabled: Sequence[str] = (),
    max_restarts: int = 0,
    asked: float | None = None,
) -> dict[str, Any] | None:
    """Run a plan on ranks of this machine.

    Args:
        plan: What to run.
        folder: The run's folder.
        disabled: Plugins that ranks must not import.
        max_restarts: How often in a row, without a new checkpoint in between, ranks are started
            again after an unexpected failure.
        asked: When the run was asked for, in seconds of the epoch; now by default.

    Returns:
        The run's summary; ``None`` where it was stopped before an iteration was done.

    Raises:
        RunFailedError: a rank failed; says which, and its last lines.
        MimoError: the folder cannot be used.
        KeyboardInterrupt: after all ranks have ended.
    """
    try:
        lock = folder.lock()
        _prepare(plan, folder)
    except OSError as error:
        message = f"--run-dir {folder.path} cannot be used: {text_of(error)}"
        raise MimoError(message, code=UNUSABLE, folder=str(folder.path)) from error
    with lock, _Nurseries(folder) as nurseries, _Signals() as signals:
        try:
            asked = time.time() if asked is None else asked
            failure = _attempts(nurseries, plan, folder, disabled, max_restarts, asked, signals)
        except ForkServerError as error:
            raise RunFailedError(str(error)) from error
    if failure is not None and failure.code:
        raise RunFailedError(failure.text(), code=failure.error_code)
    if failure is not None:
        go_on = folder.resume_command(disabled, max_restarts)
        show(f"\n  stopped by SIGTERM {NOTHING_DONE}; go on:\n    {go_on}")
        return None
    summary = folder.read_summary()
    if summary is None or "finished" not in summary:
        raise RunFailedError(
            "all ranks ended with exit code 0, but before the end of the run: something in them "
            f"ended their processes (logs: {folder.logs}) [{_ENDED_EARLY}]",
            code=_ENDED_EARLY,
        )
    return summary


def _prepare(plan: Plan, folder: RunDirectory) -> None:
    """The folder, with the recipe that the ranks read."""
    folder.logs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder.logs):
        pass
    folder.keep_recipe(dump(plan.recipe))
    folder.reopen_summary()
    if plan.recipe.checkpoint.enabled:
        folder.try_checkpoints(plan.recipe.checkpoint.directory)


class _Nurseries:
    """One for all attempts, or a new one where that was killed or stopped."""

    def __init__(self, folder: RunDirectory) -> None:
        self._folder = folder
        self._latest = nursery_of(folder)

    def __enter__(self) -> _Nurseries:
        return self

    def __exit__(self, *_error: object) -> None:
        self._latest.close()

    def give(self) -> ForkServer:
        """One that can be asked for ranks."""
        if self._latest.ended or self._latest.silent:
            self._latest.close()
            self._latest = nursery_of(self._folder)
        return self._latest


def _attempts(
    nurseries: _Nurseries,
    plan: Plan,
    folder: RunDirectory,
    disabled: Sequence[str],
    max_restarts: int,
    asked: float,
    signals: _Signals,
) -> Failure | None:
    """Until all ranks end well, or fail for good. Gives the last attempt's failure."""
    restarts: list[dict[str, Any]] = []
    begun_at, in_a_row = find_resumable_checkpoint(plan, folder).iteration, 0
    while True:
        told = {RESTARTS: json.dumps(restarts), MAX_RESTARTS: str(max_restarts)}
        told[LAUNCHED] = str(asked)
        failure = attempt(nurseries.give(), plan, folder, disabled, told, lambda: signals.told)
        if failure is None or failure.expected or not failure.code or signals.told:
            return failure
        done = find_resumable_checkpoint(plan, folder).iteration
        in_a_row = in_a_row + 1 if done == begun_at else 1
        if in_a_row > max_restarts:
            return failure
        begun_at = done
        cause = f"{failure.label} {failure.said()}"
        asked = time.time()
        restart = {"time": asked, "after_iteration": done or 0, "cause": cause}
        restarts.append(restart | {"error_code": failure.error_code})
        goes = "begins anew, as nothing was saved"
        if done is not None:
            goes = f"goes on after iteration {done}"
        show(f"\n{failure.text()}\n", sys.stderr)
        show(f"  restart {in_a_row} of {max_restarts}: {goes}", sys.stderr)


class _Signals:
    """SIGTERM is told to the ranks, which save and end; once more, it ends the run as Ctrl-C does,
    and as SIGHUP always does: with all its ranks, at once."""

    def __init__(self) -> None:
        self.told = False
        """Whether the run was told to stop."""
        self._since = 0.0
        self._kept: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                self._kept[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._kept.items():
            signal.signal(number, handler)

    def _hear(self, number: int, _frame: object) -> None:
        if number == signal.SIGTERM and not self.told:
            self.told, self._since = True, time.monotonic()
            show(
                "  told to stop (SIGTERM): after this iteration; once more, or Ctrl-C: at once",
                sys.stderr,
            )
        elif number == signal.SIGHUP or time.monotonic() - self._since > AGAIN:
            raise KeyboardInterrupt
