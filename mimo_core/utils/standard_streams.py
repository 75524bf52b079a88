"""Standard streams of a command that stay usable whatever they are connected to.

A stream may be closed, may be a full disk or a broken pipe, or may have an encoding that lacks
characters of a message. None of these may end a run, or hide why it failed.
"""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any

from mimo_core.utils.terminal_text import printable

if TYPE_CHECKING:
    from rich.console import Console

_COLUMNS = 80
_HANDLER = "mimo_plain"
_PLAIN = {
    **{"…": "...", "✓": "+", "✗": "x", "·": "-", "→": "->", "←": "<-", "▶": ">", "◀": "<"},
    **{"\u00d7": "x", "\u2013": "-", "—": "-", "▼": "v", "▲": "^", "│": "|", "┃": "|", "║": "|"},
    **dict.fromkeys("─━═╌╴╶╸╺", "-"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╰╯┏┓┗┛┡┩╇┳┻╋", "+"),
    **dict.fromkeys("█▉▊▋▌▍▎▏▀▄▐░▒▓", "#"),
}
"""What is written in place of a character that a stream's encoding lacks."""


def _encode_plainly(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    written = "".join(
        _PLAIN.get(one) or one.encode("ascii", "backslashreplace").decode() for one in text
    )
    return written, error.end


codecs.register_error(_HANDLER, _encode_plainly)


class Stream:
    """A text stream whose writes never raise: after the first that fails, it drops all others."""

    def __init__(self, stream: IO[str], lost: Callable[[OSError], None]) -> None:
        """
        Args:
            stream: Where to write.
            lost: Called with the error of the first write that fails.
        """
        self.stream = stream
        """Where it writes, and raises as it does."""
        self._lost = lost
        self.error: OSError | None = None
        """Why it cannot be written any more."""
        with suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors=_HANDLER)  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        self._try(lambda: self.stream.write(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        self._try(self.stream.flush)

    def _try(self, action: Callable[[], object]) -> None:
        if self.error is not None:
            return
        try:
            action()
        except OSError as error:
            self.error = error
            _discard(self.stream)
            self._lost(error)


def _discard(stream: IO[str]) -> None:
    """Let the interpreter's flush at its end succeed, which would report the error once more."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()


def explain(name: str, error: OSError, then: str = "") -> str:
    """``stdout cannot be written any more (No space left on device)``, and what follows from it."""
    return f"{name} cannot be written any more ({error.strerror or error})" + (
        f": {then}" if then else ""
    )


def pair(out: IO[str], err: IO[str], then: str) -> tuple[Stream, Stream]:
    """Both streams of a process; the loss of ``out`` is reported on ``err``.

    Args:
        out: For results and progress.
        err: For errors.
        then: What the process does where ``out`` is lost; nothing is reported if it is empty.
    """
    errors = Stream(err, lambda _error: None)

    def report(error: OSError) -> None:
        if then:
            errors.write(explain("stdout", error, then) + "\n")
            errors.flush()

    return Stream(out, report), errors


@contextmanager
def usable_streams(then: str = "") -> Iterator[Stream]:
    """Have ``sys.stdout`` and ``sys.stderr`` be streams that can be written; gives the first.

    Args:
        then: As :func:`pair` has it.
    """
    _open_closed_descriptors()
    kept = sys.stdout, sys.stderr
    out, errors = pair(sys.stdout, sys.stderr, then)
    sys.stdout, sys.stderr = out, errors
    try:
        yield out
    finally:
        out.flush()
        errors.flush()
        sys.stdout, sys.stderr = kept


def show(text: object, stream: IO[str] | None = None) -> None:
    """Write a line for a person, with control characters escaped, as text may come from files.

    Args:
        text: A line, an error, or several lines.
        stream: Where to write; stdout by default.
    """
    print(printable(str(text)), file=stream or sys.stdout, flush=True)


def console(stream: IO[str] | None = None) -> Console:
    """A console for a stream, stdout by default; 80 columns at least, as rich cuts numbers of a
    table that has too few.

    It escapes control characters and takes no markup or emoji codes from text.
    """
    from mimo_core.utils.safe_console import SafeConsole

    found = SafeConsole(file=stream)
    return found if found.width >= _COLUMNS else SafeConsole(file=stream, width=_COLUMNS)


def _open_closed_descriptors() -> None:
    """Standard streams that were closed lead nowhere; else files of the run get their numbers."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # Takes the lowest free number: this one. The run's processes have it too.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
