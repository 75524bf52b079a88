"""Ends a run whose steps are all skipped."""

from __future__ import annotations

from mimo_core.errors import MimoError
from mimo_core.report.reporter import NO_LABELS, Iteration

MOST_IN_A_ROW = 10
"""Skipped steps in a row that end a run."""


class SkippedSteps:
    """Counts skipped steps in a row. All ranks have one, and count the same."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def count(self, row: Iteration) -> None:
        """Take an iteration into account. Called by all ranks, with the same cause.

        Raises:
            MimoError: too many steps in a row were skipped.
        """
        self._in_a_row = 0 if row.skipped is None else self._in_a_row + 1
        if self._in_a_row < MOST_IN_A_ROW:
            return
        other = "a smaller train.learning_rate or other data"
        if row.skipped == NO_LABELS:
            other = "a larger train.sequence_length or other data"
        raise MimoError(
            f"iterations {row.iteration - MOST_IN_A_ROW + 1} to {row.iteration} were all "
            f"skipped: {row.skipped}; go on from the last checkpoint with {other} "
            "(weights were not changed by skipped steps)",
            code="run.steps-skipped",
            iteration=row.iteration,
            skipped=row.skipped,
        )
