"""Ends a run whose steps are all skipped."""

from __future__ import annotations

from mimo_core.errors import MimoError
from mimo_core.reporting.summary import NO_LABELS, Iteration

MAX_CONSECUTIVE_SKIPPED_STEPS = 10
"""Skipped steps in a row that end a run."""


class SkippedSteps:
    """Counts skipped steps in a row. All ranks have one, and count the same."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._cause: str | None = None
        self._taken = False

    def count(self, row: Iteration) -> None:
        """Take an iteration into account. Called by all ranks, with the same cause.

        Raises:
            MimoError: too many steps in a row were skipped.
        """
        self._in_a_row = 0 if row.skipped is None else self._in_a_row + 1
        self._taken |= row.skipped is None
        self._cause = row.skipped
        if self._in_a_row < MAX_CONSECUTIVE_SKIPPED_STEPS:
            return
        first = row.iteration - MAX_CONSECUTIVE_SKIPPED_STEPS + 1
        raise MimoError(
            f"iterations {first} to {row.iteration} were all skipped: {row.skipped}; resume from "
            f"the last checkpoint with {_remedy(row.skipped)} (skipped steps changed no weights)",
            code="run.steps-skipped",
            iteration=row.iteration,
            skipped=row.skipped,
        )

    def untrained(self) -> MimoError | None:
        """The error of a run whose steps were all skipped; the same on all ranks."""
        if self._taken or self._cause is None:
            return None
        return MimoError(
            f"every iteration was skipped, so nothing was trained: {self._cause}; start again "
            f"with {_remedy(self._cause)}",
            code="run.steps-skipped",
            skipped=self._cause,
        )


def _remedy(cause: str | None) -> str:
    if cause == NO_LABELS:
        return "a larger train.sequence_length or other data"
    return "a smaller train.learning_rate or other data"
