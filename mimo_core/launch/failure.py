"""A failure as every rank, every node and the launcher tell it."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path
from typing import Any

import attrs

from mimo_core.errors import problems_in
from mimo_core.launch.protocol import LONGEST_TEXT, Malformed, decode, integer
from mimo_core.reporting.run_directory import RunDirectory
from mimo_core.utils.terminal_text import printable

_LINES = 15
"""Last lines of a log that are shown."""
_CRASH = "Fatal Python error: "
"""Begins what faulthandler writes of a crash: where it was comes first there."""
PART = "====="
"""Begins the first line of a run, or of its going on, in a log."""
_LONGEST_CODE = 128
"""Characters of an error's code."""
_MOST = 1 << 31


def _bounded(text: str) -> str:
    """A message of at most ``LONGEST_TEXT`` characters, its note of what is left out and its code
    included."""
    if len(text) <= LONGEST_TEXT:
        return text
    code = problems_in(text.rpartition("\n")[2][-_LONGEST_CODE - 4 :])[0].code
    kept = LONGEST_TEXT - 64 - _LONGEST_CODE
    ending = f" [{code}]" if code else ""
    return f"{text[:kept]} … ({len(text) - kept} more characters){ending}"


@attrs.frozen(kw_only=True)
class Failure:
    """Why a run ends: what happened first, and to which rank."""

    rank: int
    label: str
    """The rank with its place, such as ``rank 3 (vision, dp 1)``."""
    message: str = attrs.field(converter=_bounded)
    log: str | None
    """The rank's log; ``None`` where it had none yet."""
    expected: bool = False
    """A mistake that the message tells in full; otherwise the log's last lines are shown too."""
    silent: bool = False
    """The process ended without saying why."""
    hung: bool = False
    """The process is there and does nothing, which other ranks have noticed."""
    screen: int = 0
    """The screen that the rank writes to (:attr:`mimo_core.launch.rank_env.Rank.screen`)."""
    error_code: str = ""
    """Of the error that ended the rank (``docs/reference/errors.md``); empty if it has none. The
    message ends with it."""
    code: int = 1
    """Exit code of the ranks' processes; 0 where the run only was told to stop."""
    time: float = attrs.field(factory=time.time)
    """Seconds of the epoch."""

    def said(self) -> str:
        """What the rank did: ``failed: …``."""
        said = self.message if self.silent or not self.code else f"failed: {self.message}"
        return printable(said)

    def text(self) -> str:
        """What a person reads: the cause, the last lines of the rank's log, and where that is."""
        told = [f"{printable(self.label)} {self.said()}"]
        lines = None if self.log is None else _last_lines(Path(self.log))
        if self.log is not None and lines is not None:
            if not self.expected:
                told += ["", *(f"  | {printable(line)}" for line in lines)]
            told += ["", f"its log: {printable(self.log)}"]
        return "\n".join(told)

    def to_json(self) -> str:
        return json.dumps(attrs.asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes, folder: RunDirectory) -> Failure:
        """What :meth:`to_json` wrote.

        Raises:
            Malformed: it is no failure.
        """
        return cls.from_message(decode(text.encode() if isinstance(text, str) else text), folder)

    @classmethod
    def from_message(cls, message: Any, folder: RunDirectory) -> Failure:
        """A failure that another process describes.

        Args:
            message: Its fields.
            folder: The run's folder. The log is the rank's own one there, whatever the message
                names.

        Raises:
            Malformed: a field is missing, unknown or of another type.
        """
        fields = {field.name for field in attrs.fields(cls)}
        if not isinstance(message, dict) or not {"rank", "label", "message", "log"} <= set(message):
            raise Malformed("no failure")
        if set(message) - fields:
            raise Malformed(f"a failure with {sorted(set(message) - fields)}")
        rank = integer(message, "rank", 0, _MOST)
        texts = {"label": message["label"], "message": message["message"]}
        flags = {name: message.get(name, False) for name in ("expected", "silent", "hung")}
        error_code = message.get("error_code", "")
        moment = message.get("time", time.time())
        if not all(isinstance(value, str) for value in texts.values()):
            raise Malformed("a failure whose label or message is no text")
        if not isinstance(error_code, str) or len(error_code) > _LONGEST_CODE:
            raise Malformed("a failure whose error code is no short text")
        if not all(isinstance(value, bool) for value in flags.values()):
            raise Malformed("a failure whose flags are no truth values")
        if not isinstance(moment, int | float):
            raise Malformed("a failure whose time is no number")
        return cls(
            rank=rank,
            **texts,
            log=None if message["log"] is None else str(folder.log(rank)),
            **flags,
            error_code=error_code,
            screen=integer({"screen": 0, **message}, "screen", 0, _MOST),
            code=integer({"code": 1, **message}, "code", 0, 255),
            time=moment,
        )


def _last_lines(log: Path) -> list[str] | None:
    """The last lines of a rank's log; ``None`` if it is no regular file of the run's folder."""
    try:
        if log.parent.resolve() != log.parent.parent.resolve() / log.parent.name:
            return None
        # A link would name another file, and a named pipe would never end.
        descriptor = os.open(log, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        file.seek(max(0, status.st_size - 65536))
        lines = file.read(65536).decode(errors="replace").splitlines()
    starts = [index for index, line in enumerate(lines) if line.startswith(PART)]
    lines = lines[starts[-1] :] if starts else lines
    crashes = [index for index, line in enumerate(lines) if line.startswith(_CRASH)]
    return lines[crashes[-1] :][:_LINES] if crashes else lines[-_LINES:]
