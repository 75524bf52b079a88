"""Collects a run's figures on the rank that holds the language model's last stage."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from rich.table import Table

from mimo_core.reporting.console import Answer, Screen
from mimo_core.reporting.plots import draw_loss
from mimo_core.reporting.run_directory import RunDirectory, finite


@attrs.frozen(kw_only=True)
class Iteration:
    """One training iteration."""

    iteration: int
    loss: float | None
    """Mean over the learned tokens of the global batch; ``None`` for a skipped step."""
    gradient_norm: float | None
    """Of the whole model, before clipping; ``None`` for a skipped step."""
    gradient_norms: Mapping[str, float | None] = attrs.field(factory=dict)
    """Of each module, before clipping; ``None`` where a gradient is not finite."""
    step_seconds: float
    """From the first kernel's launch to the end of the optimizer's step."""
    elapsed_seconds: float | None = None
    """Since the end of the iteration before, with all that was done between; ``None`` for the first
    that a command runs."""
    positions: int
    """Sequence positions of the global batch; of packed samples those that they take."""
    flops: Mapping[str, float] = attrs.field(factory=dict)
    """Model FLOPs of each module, forward and backward."""
    media: Mapping[str, int] = attrs.field(factory=dict)
    """Media of the global batch that each encoder reads."""
    skipped: str | None = None
    """Why no optimizer step was taken; ``None`` where one was."""
    samples_without_labels: int = 0
    """Samples of the global batch that have no learned token."""


NO_LABELS = "no sample of its global batch has a learned token"
"""Why an iteration was skipped, beside gradients that are not finite."""


def not_finite(norms: Mapping[str, float | None]) -> str:
    """Why an iteration was skipped.

    Args:
        norms: Of each module; ``None`` where a gradient is not finite.
    """
    named = [name for name, norm in norms.items() if norm is None]
    return f"the gradient of {' and of '.join(named) or 'the model'} is not finite"


FIRST_ITERATIONS = 10
"""After these, encoders that have had no medium are noted."""
_UNWRITTEN = 20.0
"""Seconds after which what a killed run would lose is written."""


class Reporter:
    """The run's figures: to the screen at once, to the run folder as they come."""

    def __init__(
        self,
        *,
        folder: RunDirectory,
        screen: Screen,
        facts: Mapping[str, Any],
        started: float,
        save_interval: int = 0,
        restarts: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """
        Args:
            folder: Where the summary goes. Iterations of an earlier part of the same run are
                kept.
            screen: Where a person looks.
            facts: What the summary says of the run as a whole.
            started: When the command was given, in seconds of the epoch.
            save_interval: Iterations between checkpoints: a run that goes on from one has the
                figures up to it.
            restarts: What the launcher has restarted so far, each with its time.
        """
        self._folder = folder
        self._screen = screen
        self._facts = dict(facts)
        earlier = folder.read_summary() or {}
        self._iterations: list[dict[str, Any]] = earlier.get("iterations", [])
        self._evaluations: list[dict[str, Any]] = earlier.get("evaluations", [])
        self._notes: list[str] = earlier.get("notes", [])
        known = [*earlier.get("restarts", []), *restarts]
        self._restarts = list({row["time"]: row for row in known}.values())
        self._started = started
        self._first_step: float | None = None
        self._save_every = save_interval
        self._written = time.monotonic()
        self._before = len(self._iterations)
        self._without_labels = 0
        self.reached = 0
        """Iterations done so far, of the whole run."""

    def begin(self, iteration: int) -> None:
        """The run goes on after ``iteration``: what an earlier part did beyond it is dropped."""
        self.reached = iteration
        self._iterations = [row for row in self._iterations if row["iteration"] <= iteration]
        self._evaluations = [row for row in self._evaluations if row["iteration"] <= iteration]
        self._before = len(self._iterations)

    @property
    def steady(self) -> Sequence[Mapping[str, Any]]:
        """Iterations of this part of the run that tell its speed: the first one warms caches up."""
        done = self._iterations[self._before :]
        return done[1:] or done

    def note(self, line: str) -> None:
        """Something that a person should know of the run; the summary lists it."""
        self._screen.say(line)
        if line not in self._notes:
            self._notes.append(line)

    def show(self, table: Table) -> None:
        """A table that a person should see of the run."""
        self._screen.console.print(table)

    def step(self, row: Iteration) -> None:
        """One training iteration is done."""
        if self._first_step is None:
            self._first_step = time.time() - self._started
        self._iterations.append(attrs.asdict(row))
        self.reached = row.iteration
        saves = self._save_every and row.iteration % self._save_every == 0
        if saves or time.monotonic() - self._written > _UNWRITTEN:
            self.write({})
        if row.skipped is not None:
            self._screen.say(f"iteration {row.iteration} was skipped: {row.skipped}")
        elif row.samples_without_labels and not self._without_labels:
            s = "s" if row.samples_without_labels > 1 else ""
            self._screen.say(
                f"iteration {row.iteration} is the first with samples without a learned token: "
                f"{row.samples_without_labels} sample{s} (named in the log), left out of the loss"
            )
        self._without_labels += row.samples_without_labels
        if len(self._iterations) - self._before == FIRST_ITERATIONS:
            self._note_unfed()
        if row.loss is not None:
            self._screen.step(row.iteration, row.loss, row.step_seconds, row.positions)

    def _note_unfed(self) -> None:
        done = self._iterations[self._before :][:FIRST_ITERATIONS]
        for encoder in done[0]["media"]:
            if not any(row["media"].get(encoder) for row in done):
                s = "s" if len(done) > 1 else ""
                self.note(
                    f"no sample of the first {len(done)} iteration{s} has a medium for encoder "
                    f"{encoder!r}: nothing of it is trained so far"
                )

    def evaluation(self, iteration: int, results: Mapping[str, float]) -> None:
        """An evaluation on the held-out split is done."""
        self._evaluations.append({"iteration": iteration, **results})
        self._screen.evaluation(iteration, results)
        self.write({})

    def end(
        self, answers: list[Answer], more: Mapping[str, Any], tables: Sequence[Table] = ()
    ) -> dict[str, Any]:
        """The run is done; gives its summary."""
        if 0 < len(self._iterations) - self._before < FIRST_ITERATIONS:
            self._note_unfed()
        self._screen.answers(answers)
        self._screen.tables(tables)
        shown = [
            {"key": answer.key, "truth": answer.truth, "said": answer.said} for answer in answers
        ]
        finished = self.reached >= self._screen.iterations
        if self._without_labels:
            self._screen.say(
                f"samples without a learned token, left out of the loss: {self._without_labels}"
            )
        summary = self.write({"finished": finished, "answers": shown, **more})
        rows = [row for row in self._iterations if row["loss"] is not None]
        if rows:
            draw_loss(
                self._folder.loss_picture,
                [row["iteration"] for row in rows],
                [row["loss"] for row in rows],
                [
                    (row["iteration"], row["loss"])
                    for row in finite(self._evaluations)
                    if row["loss"] is not None
                ],
            )
        return summary

    def write(self, more: Mapping[str, Any]) -> dict[str, Any]:
        """Write the summary as it is now."""
        # Where this part of the run has none yet, the earlier ones tell.
        steady = self.steady or self._iterations[1:]
        seconds = statistics.median([row["step_seconds"] for row in steady]) if steady else None
        tokens = statistics.fmean([row["positions"] for row in steady]) if steady else 0.0
        latest = self._evaluations[-1] if self._evaluations else {}
        summary = {
            **self._facts,
            "tokens_per_second": tokens / seconds if seconds else None,
            "median_step_seconds": seconds,
            "seconds_to_first_iteration": self._first_step,
            "evaluation": {key: value for key, value in latest.items() if key != "iteration"},
            "evaluations": self._evaluations,
            "iterations": self._iterations,
            "restarts": self._restarts,
            "notes": self._notes,
            **more,
        }
        summary = self._folder.write_summary(summary)
        self._written = time.monotonic()
        return summary
