"""Errors for users: each has a stable code, and says what is wrong, where, with which values, and
what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Self

import attrs

KeyPath = tuple[str | int, ...]
"""Keys and list positions from the top of a recipe."""


@attrs.frozen
class Problem:
    """One thing that is wrong."""

    message: str
    """Without its place and its code."""
    code: str
    """Stable, such as ``recipe.unknown-key``; ``docs/reference/errors.md`` lists all codes."""
    path: KeyPath = ()
    """Keys of the recipe that it is about."""
    values: Mapping[str, Any] = attrs.field(factory=dict)
    """What the message is about, by name."""
    place: str = ""
    """Where the recipe has these keys, such as ``recipe.yaml:7: train.seed``."""

    @property
    def text(self) -> str:
        """The message after its place."""
        return f"{self.place}: {self.message}" if self.place else self.message

    def __str__(self) -> str:
        return f"{self.text} [{self.code}]" if self.code else self.text


class MimoError(ValueError):
    """An error that a user can fix. It is shown as its message, without a traceback."""

    def __init__(self, message: str, path: KeyPath = (), *, code: str, **values: Any) -> None:
        """
        Args:
            message: What is wrong, where, and what to do.
            path: Keys of the recipe that it is about, where it does not name their place itself;
                ``make_plan`` puts the place before it.
            code: Stable, ``AREA.WORDS-WITH-HYPHENS``; of a plugin's error, the area is the
                plugin's name.
            values: What the message is about, by name.
        """
        super().__init__(message)
        self.problems: tuple[Problem, ...] = (Problem(message, code, path, values),)

    @classmethod
    def of(cls, problems: Iterable[Problem]) -> Self:
        """One error of several problems, a line each."""
        found = tuple(problems)
        error = cls.__new__(cls)
        ValueError.__init__(error, "\n".join(problem.text for problem in found))
        error.problems = found
        return error

    @property
    def text(self) -> str:
        """All messages with their places, without codes: for a message that holds this one."""
        return "\n".join(problem.text for problem in self.problems)

    @property
    def code(self) -> str:
        """Of the first problem."""
        return self.problems[0].code

    @property
    def path(self) -> KeyPath:
        """Of the first problem."""
        return self.problems[0].path

    @property
    def values(self) -> Mapping[str, Any]:
        """Of the first problem."""
        return self.problems[0].values

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).of, (self.problems,)


# torch makes the error of a DataLoader worker anew, from its text only. Type checkers need a code.
MimoError.__init__.__kwdefaults__ = {"code": ""}


class RecipeError(MimoError):
    """The recipe is wrong: the message holds one line for each mistake, with its place."""


class PluginError(MimoError):
    """A plugin is missing, broken or breaks the contract of the hooks."""


class SampleError(MimoError):
    """A sample of the dataset cannot be used; the message names it. Passes through the hooks of the
    module that asked for it."""


class DiskFullError(MimoError):
    """Something could not be written, for want of room."""


class CheckpointError(MimoError):
    """A checkpoint does not fit the run, or this version; the message says in what."""


class LayoutError(MimoError):
    """The grids do not fit each other, the world or what their plugins support."""


_CODED = re.compile(r" \[([a-z][a-z0-9_-]*\.[a-z][a-z0-9-]*)\]$")


def problems_in(text: str) -> list[Problem]:
    """The problems of an error that another process printed, by the codes at ends of lines.

    What follows the last code belongs to the last problem; without any code, the whole text is one
    problem.
    """
    found: list[Problem] = []
    lines: list[str] = []
    for line in text.split("\n"):
        coded = _CODED.search(line)
        lines.append(line if coded is None else line[: coded.start()])
        if coded is not None:
            found.append(Problem("\n".join(lines), coded[1]))
            lines = []
    rest = "\n".join(lines)
    if not found:
        return [Problem(rest, "")]
    if lines:
        found[-1] = attrs.evolve(found[-1], message=f"{found[-1].message}\n{rest}")
    return found


def code_of(error: BaseException, otherwise: str) -> str:
    """The code of an error for users; ``otherwise`` for any other error, and where it has none.
    Errors of other libraries may have a ``code`` of another kind."""
    return (error.code if isinstance(error, MimoError) else "") or otherwise


def values_of(error: BaseException) -> dict[str, Any]:
    """The values of an error for users; none of any other error."""
    return dict(error.values) if isinstance(error, MimoError) else {}


def text_of(error: BaseException) -> str:
    """The message of any error, without codes."""
    return error.text if isinstance(error, MimoError) else str(error)


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that the user probably meant by ``word``, or ``None`` if none is close."""
    for candidate in sorted(candidates := tuple(candidates)):
        if candidate != word and candidate.casefold() == word.casefold():
            return candidate
    cutoff = 0.5 if len(word) < 4 else 0.6  # of two letters one may be wrong
    close = difflib.get_close_matches(word, sorted(candidates), n=5, cutoff=cutoff)

    def likeness(candidate: str) -> tuple[float, int]:
        ratio = difflib.SequenceMatcher(None, candidate, word).ratio()
        # Of two that are as close, the one with letters where the word has them.
        return ratio, sum(a == b for a, b in zip(candidate, word, strict=False))

    return max(close, key=likeness, default=None)


def suggestion(word: str, candidates: Iterable[str]) -> str:
    """``" Did you mean 'radio'?"``, or nothing: to be put behind a message."""
    near = nearest(word, candidates)
    return f" Did you mean {near!r}?" if near else ""
