"""What a person sees of a run: one progress line, evaluations, answers, where things are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

import attrs
from rich.columns import Columns
from rich.console import Group
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from mimo_core.utils.standard_streams import console


@attrs.frozen(kw_only=True)
class Answer:
    """A held-out sample and what the model said of it."""

    key: str
    truth: str
    said: str
    picture: tuple[str, ...] = ()
    """Lines of rich markup."""


class Screen:
    """The run on a terminal, or as plain lines where the output is none."""

    def __init__(self, stream: IO[str], iterations: int, every: int) -> None:
        """
        Args:
            stream: Where to write; the rank's own stdout is its log.
            iterations: Of the whole run.
            every: Iterations between lines where there is no terminal.
        """
        self.console = console(stream)
        self.iterations = iterations
        self._every = every
        self._steps = 0
        self._smooth = 0.0
        self._progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[line]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._progress.add_task("training", total=iterations, line="starting …")

    def __enter__(self) -> Screen:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def say(self, line: str | Text) -> None:
        self.console.print("  ", line, sep="", highlight=False, soft_wrap=True)

    def step(self, iteration: int, loss: float, seconds: float, tokens: int) -> None:
        """One training iteration is done."""
        self._steps += 1
        # The first step compiles and warms up: it says nothing of those to come.
        weight = 1.0 if self._steps <= 2 else 0.1
        self._smooth += weight * (seconds - self._smooth)
        left = math.ceil((self.iterations - iteration) * self._smooth)
        line = (
            f"{iteration}/{self.iterations}  loss {loss:.4f}  {seconds * 1e3:.0f} ms/step  "
            f"{tokens / self._smooth:,.0f} tokens/s  {left // 60}:{left % 60:02d} left"
        )
        self._progress.update(self._task, completed=iteration, line=line)
        due = iteration % self._every == 0 or iteration in (1, self.iterations)
        if due and not self.console.is_terminal:
            self.say(f"training {line}")

    def evaluation(self, iteration: int, results: Mapping[str, float]) -> None:
        """An evaluation on the held-out split is done."""
        told = ", ".join(
            f"{name} {value:.4f}" if name == "loss" else f"{name} {value:.1%}"
            for name, value in results.items()
        )
        s = "s" if iteration != 1 else ""
        line = f" after {iteration} iteration{s}: {told}"
        self.say(Text.assemble(("held out", "bold"), line))

    def answers(self, answers: Sequence[Answer]) -> None:
        """A few held-out samples, each with what the model said of it."""
        if not answers:
            return
        self.say("held-out samples, and what the model said of each:")
        cells = []
        for answer in answers:
            right = answer.said == answer.truth
            verdict = Text("✓ " if right else "✗ ", style="green" if right else "red")
            verdict.append(answer.said or "(nothing)")
            if not right:
                verdict.append(f"\n  is {answer.truth}", style="dim")
            lines = [Text.from_markup(line) for line in answer.picture]
            name = Text(answer.key, style="dim")
            cells.append(Group(*(lines if self.console.is_terminal else []), verdict, name))
        self.console.print(Columns(cells, padding=(1, 3)))

    def tables(self, tables: Sequence[Table]) -> None:
        """What the run was like, in tables."""
        for table in tables:
            self.console.print(Padding(table, (1, 0, 0, 2)))
        if tables:
            self.console.print()

    def end(self, places: Mapping[str, Path | str]) -> None:
        """Where the run's results are."""
        width = max(map(len, places))
        for name, place in places.items():
            self.say(f"{name:<{width}}  {place}")

    def stopped(self, iteration: int, by: str | None, command: str | None) -> None:
        """The run ended before its last iteration, as it was told to.

        Args:
            iteration: The last one done.
            by: The signal that told it to.
            command: What goes on from there; ``None`` where nothing was saved.
        """
        how = f"stopped by {by}" if by else "stopped"
        what = f"{how} after iteration {iteration} of {self.iterations}: not finished"
        if command is None:
            self.say(f"{what}, and nothing was saved (checkpoint.enabled is false)")
            return
        self.say(f"{what}; go on:")
        self.say(f"  {command}")
