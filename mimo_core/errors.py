"""Errors that a user can mend: each message says what, where, which values and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MimoError(ValueError):
    """Shown to the user as its message alone, without a traceback."""

    def __init__(self, said: str, path: tuple[str | int, ...] = ()) -> None:
        """
        Args:
            said: The message.
            path: Keys of the recipe that it is about, where it does not name their place itself;
                ``make_plan`` puts the place before it.
        """
        super().__init__(said)
        self.path = path


class RecipeError(MimoError):
    """The recipe is wrong: the message holds one line for each mistake, with its place."""


class PluginError(MimoError):
    """A plugin is missing, broken or breaks the contract of the hooks."""


class SampleError(MimoError):
    """A sample of the dataset cannot be used; the message names it. Passes through the hooks of the
    module that asked for it."""


class DiskFull(ValueError):
    """Something could not be written, for want of room."""


class CheckpointError(MimoError):
    """A checkpoint does not fit the run, or this version; the message says in what."""


class LayoutError(MimoError):
    """The grids do not fit each other, the world or what their plugins support."""


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that the user probably meant by ``word``, or ``None`` if none is close."""
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
