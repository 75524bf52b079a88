"""Checks of what ranks hold and read: before the first step, after it and before each save."""

from __future__ import annotations

from collections.abc import Mapping

from mimo_core.data.iterator import MicrobatchIterator
from mimo_core.model.mimo_model import RankMimoModel
from mimo_core.planning.plan import Plan
from mimo_core.reporting.summary import Reporter
from mimo_core.train.replica_consistency import compare_batches, compare_weights
from mimo_core.train.unused_parameters import Watch, had_work, unreached

WATCHED_STEPS = 10
"""Steps after which a module that has had nothing to do is not watched any more."""


class ModelChecks:
    """Checks of one rank; all ranks call the same method at the same time."""

    def __init__(self, plan: Plan, reporter: Reporter | None) -> None:
        """
        Args:
            plan: What is run.
            reporter: On the rank that reports, else ``None``.
        """
        self._plan = plan
        self._reporter = reporter
        self._model: RankMimoModel | None = None
        self._watch: Watch | None = None
        self._steps = 0
        self._reported: frozenset[str] = frozenset()
        self._drift_reported = False

    def before_step(self, model: RankMimoModel, feed: MicrobatchIterator) -> None:
        """Compare batches and weights of ranks before this process's first step, and watch which
        parameters get a gradient in it. Called by all ranks before every step.

        Args:
            model: This rank's part.
            feed: Training batches of this rank.

        Raises:
            MimoError: ranks that must be equal are not.
        """
        if self._model is not None:
            return
        compare_batches(self._plan, feed.look_ahead())
        compare_weights(self._plan, model, "before the first step", trained=False)
        self._model = model
        self._watch = Watch(model)

    def after_step(self, media: Mapping[str, int]) -> None:
        """Note parameters without a gradient and fields that nothing reads, of each module once:
        after this process's first step in which it has something to do. Called by all ranks after
        every step.

        Args:
            media: Media of the global batch for each encoder, on ranks of the language model's last
                stage; empty on others.
        """
        if self._watch is None:
            return
        self._steps += 1
        due = had_work(media) - self._reported
        self._reported |= due
        last = self._reported == self._plan.graph.modules.keys()
        if due:
            lines = unreached(self._plan, self._watch.found(), due, last=last)
            if self._reporter is not None:
                for line in lines:
                    self._reporter.note(line)
        if last or self._steps == WATCHED_STEPS:
            self._watch.end()
            self._watch = None

    def before_saving(self, iteration: int) -> None:
        """Compare the weights that ranks are about to save. Called by all ranks.

        Args:
            iteration: The one that is saved.

        Raises:
            MimoError: copies have become different.
        """
        if self._model is None:
            return
        when = f"after iteration {iteration}, which is not saved (earlier checkpoints are kept)"
        lines = compare_weights(self._plan, self._model, when, trained=True)
        if lines and self._reporter is not None and not self._drift_reported:
            self._drift_reported = True
            self._reporter.note(
                f"after iteration {iteration}, {len(lines)} weights that tensor-parallel ranks do "
                f"not split differ between them (the log lists them), such as {lines[0].strip()}"
            )
