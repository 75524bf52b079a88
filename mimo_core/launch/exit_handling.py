"""How a rank's process tells why it ends: to its log, its launcher and its screen."""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import IO

import attrs

from mimo_core.errors import MimoError, problems_in
from mimo_core.launch.failure import Failure
from mimo_core.launch.rank_env import Rank
from mimo_core.reporting.run_directory import RunDirectory
from mimo_core.utils.safe_files import replace_text
from mimo_core.utils.standard_streams import show
from mimo_core.utils.terminal_text import printable

LAUNCHED = "MIMO_LAUNCHED"
"""When the run was asked for, or begins again, for which our launcher started this rank (seconds of
the epoch); the launcher has shown the run's header, and tells why a run failed."""
RESTARTS = "MIMO_RESTARTS"
"""What our launcher has restarted so far (JSON): a list of time, iteration and cause."""
MAX_RESTARTS = "MIMO_MAX_RESTARTS"
"""How often our launcher restarts in a row; said in the command that goes on."""
NOTHING_DONE = "before an iteration was done: there is nothing new to save"
"""Said where SIGTERM comes while ranks start."""
DISK_FULL = "run.disk-full"
DISK_FULL_THRESHOLD_BYTES = 1 << 20
"""Bytes free of a disk that is as good as full."""
_ELASTIC_FILE = "TORCHELASTIC_ERROR_FILE"
"""Where torchrun reads what it shows as the cause."""
_WORKER = " in DataLoader worker process "


@attrs.define(kw_only=True)
class Ending:
    """What is known of this rank so far, for the case that it ends."""

    rank: Rank
    label: str
    folder: RunDirectory
    screen: IO[str] = attrs.field(factory=lambda: sys.stderr)
    logged: bool = False
    """Whether this process's output goes to its log."""

    def failure(self, error: BaseException) -> Failure:
        """This rank's own failure; its traceback goes to the log."""
        expected = _is_a_mistake(error) or lacks_room(error)
        if self.logged or not expected:
            with suppress(OSError):  # the disk may be what is full
                traceback.print_exception(error)
                sys.stderr.flush()
        message = _message(error)
        if isinstance(error, KeyboardInterrupt):
            message, expected = "interrupted (SIGINT)", True
        elif not expected:
            message = f"{type(error).__name__}: {message}"
        return Failure(
            rank=self.rank.rank,
            label=self.label,
            message=message,
            log=str(self.folder.log(self.rank.rank)) if self.logged else None,
            expected=expected,
            error_code=_code(error, message),
            screen=self.rank.screen,
        )

    def tell(self, first: Failure) -> None:
        """Tell the run's first failure, which may be another rank's, before this process ends."""
        mine = first.rank == self.rank.rank
        if self.logged and not mine:
            with suppress(OSError):
                label = printable(first.label)
                show(f"this rank ends with {label}, which {first.said()}", sys.stderr)
                sys.stderr.flush()
        if os.environ.get(LAUNCHED):
            # Its launcher reads it. The folder of other ranks may be another run's.
            try:
                _replace(self.folder.failure(self.rank.rank), first.to_json())
                return
            except OSError:  # the launcher will not hear of it
                if not mine:
                    return
        elsewhere = first.silent or first.screen != self.rank.screen
        # A rank 0 that is hung prints nothing; the next one does.
        speaks = self.rank.speaks or (first.hung and first.rank == 0 and self.rank.rank == 1)
        if (mine and not first.hung) or (elsewhere and speaks):
            show(f"\n{first.text()}\n", self.screen)
        if _ELASTIC_FILE in os.environ:
            cause = f"{printable(first.label)} {first.said()}"
            if first.log is not None:
                cause += f"\nits log: {first.log}"
            said = {"message": cause, "extraInfo": {"timestamp": str(int(first.time))}}
            with suppress(OSError):
                Path(os.environ[_ELASTIC_FILE]).write_text(
                    json.dumps({"message": said}), encoding="utf-8"
                )


def lacks_room(error: BaseException) -> bool:
    """Whether a disk or a quota is full; starting anew does not help."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _is_a_mistake(error: BaseException) -> bool:
    """A user's mistake is told by its message alone: a ValueError, and so all that led to it."""
    if not isinstance(error, ValueError):
        return False
    return error.__cause__ is None or _is_a_mistake(error.__cause__)


def _message(error: BaseException) -> str:
    """What an exception says; without the traceback that one out of a loader worker carries."""
    text = str(error)
    if _WORKER in text.partition("\n")[0]:
        kind = type(error)
        module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
        name = f"{module}{kind.__qualname__}"
        return text.rpartition(f"\n{name}: ")[2].strip()
    return text


def _code(error: BaseException, message: str) -> str:
    """The code of an error; of one out of a loader worker, which is only text here, too."""
    if isinstance(error, MimoError) and error.code:
        return error.code
    return problems_in(message)[0].code if isinstance(error, ValueError) else ""


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, text)
