"""What is wrong with a line or an image, before it is known where."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mimo_core import MimoError
from mimo_plugin_captions.options import Options

SHOWN = 10
"""Broken lines that an error tells; of more it tells the number."""

CUT = 100
"""Characters of a path or an id that a message has."""

Fault = tuple[int, str]
"""A line's number, and what is wrong with it."""


class Broken(ValueError):
    """A line or an image is broken: the reason, without its place. The same on every machine that
    has the same files; what only cannot be read just now is an ``OSError``."""


def shown(text: str) -> str:
    """A path or an id as messages have it: not too long, and in characters that can be printed."""
    text = text if len(text) <= CUT else f"{text[:CUT]}…"
    return text.encode("utf-8", "backslashreplace").decode()


def told(options: Options, faults: Iterable[Fault], count: int, limit: int) -> list[str]:
    """Faults as lines of a message, in the order of the file; after ``limit`` their number."""
    lines = [f"  {options.place(line)}: {why}" for line, why in sorted(faults)[:limit]]
    return [*lines, f"  … and {count - limit} more"] if count > limit else lines


def same_id(name: str, first: int) -> str:
    """Why a line is broken that has the id of an earlier one."""
    return f"id {shown(name)!r} is that of line {first} too"


def nothing_to_learn(options: Options) -> MimoError:
    """The error for a file without lines."""
    return MimoError(
        f"{options.path}: the file holds no lines to learn from",
        code="captions.empty-file",
        file=str(options.path),
    )


def broken_lines(options: Options, faults: Sequence[Fault], count: int, read: str) -> MimoError:
    """The error for ``count`` broken lines of those that were ``read``, such as ``136 lines``."""
    way_out = "mend or remove them"
    if options.broken == "stop":
        way_out += ", or leave them out with data.options.broken: skip"
    head = f"{options.path}: {count} of {read} {'is' if count == 1 else 'are'} broken:"
    return MimoError(
        "\n".join([head, *told(options, faults, count, SHOWN), way_out]),
        code="captions.broken-lines",
        file=str(options.path),
        count=count,
        lines=tuple(line for line, _ in sorted(faults)[:SHOWN]),
    )
