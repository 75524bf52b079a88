"""Runs the judge and a layout, and compares them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from mimo_core import platforms
from mimo_core.checkpoint.directory import TRACKER
from mimo_core.errors import MimoError, RecipeError, problems_in
from mimo_core.launch.launcher import RunFailedError
from mimo_core.launch.rank_env import Rank
from mimo_core.planning.memory_estimate import memory_warning
from mimo_core.planning.plan import make_plan
from mimo_core.recipe import Recipe, dump
from mimo_core.reporting.run_directory import RunDirectory
from mimo_core.verify.compare import TOLERANCES, Verdict, compare_iterations
from mimo_core.verify.recipes import judges, layouts, measured
from mimo_core.weights.pretrained import directories
from mimo_core.weights.warm_start import starting_weights

STEPS = 3
_STOPPED = "verify.stopped"
_FULL_PRODUCTS = {"NVIDIA_TF32_OVERRIDE": "0", "TRITON_F32_DEFAULT": "ieee"}
"""On GPUs: products in fp32, not in TF32, whose 10 bits would hide what is wrong."""


def verify(
    recipe: Path | str | Recipe,
    *,
    overrides: Sequence[str] = (),
    steps: int = STEPS,
    folder: Path | None = None,
    disabled: Sequence[str] = (),
    tell: Callable[[str], None] = lambda _: None,
) -> Verdict:
    """Train a recipe for a few steps in its own layout and on one rank, and compare.

    Both run in fp32 on the same samples, from the same weights: those that the recipe has on one
    rank, which the layout loads from the judge's checkpoint of iteration 0. The whole model must
    fit one rank.

    Args:
        recipe: A recipe file, the name of a packaged one, or a recipe made in Python.
        overrides: ``key.path=value``, as on the command line.
        steps: Iterations, each with its row of every quantity.
        folder: Where both runs are kept, empty or to be made; by default they are not, unless one
            fails.
        disabled: Installed plugins to leave out.
        tell: Takes a line when a run begins.

    Raises:
        MimoError: the recipe, a plugin or the layout is wrong, or draws random numbers (dropout);
            the folder is not empty.
        RunFailedError: one of both runs failed.
    """
    if Rank.from_environment() is not None:
        message = "mimo verify starts ranks itself; give it no torchrun and no srun"
        raise RecipeError(message, code="verify.inside-launcher")
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        message = f"--run-dir {folder} is not empty; give a new folder"
        raise MimoError(message, code="verify.folder-not-empty", folder=str(folder))
    platforms.check()
    plan = make_plan(recipe, overrides, disabled=disabled)
    start = starting_weights(plan, None)
    directories(plan, None, start.manifest if start else None)
    with _kept_where_it_fails(folder) as base:
        _tell_memory(tell, judges(plan.recipe, steps), disabled)
        tell(f"on one rank, {steps} steps …")
        judge = Judge.run(plan.recipe, base, steps=steps, disabled=disabled)
        _tell_memory(tell, measured(plan.recipe, steps), disabled)
        tell(f"in its own layout, {plan.layout.world_size} ranks …")
        return judge.compare(plan.recipe, "layout")


def _tell_memory(tell: Callable[[str], None], recipe: Recipe, disabled: Sequence[str]) -> None:
    """That its ranks hold more than this machine has, where they do."""
    plan = make_plan(recipe, disabled=disabled)
    if lacks := memory_warning(plan.graph, plan.layout):
        tell(lacks)


@contextmanager
def _kept_where_it_fails(folder: Path | None) -> Iterator[Path]:
    """The folder, or one that is gone afterwards; messages of failed runs name logs in it."""
    base = folder or Path(tempfile.mkdtemp(prefix="mimo-verify-"))
    try:
        yield base
    except RunFailedError as error:
        if folder is None:
            message = f"{error}\nwhat was run is kept in {base}"
            raise RunFailedError(message, code=error.code) from error
        raise
    except BaseException:
        _remove(folder, base)
        raise
    _remove(folder, base)


def _remove(folder: Path | None, base: Path) -> None:
    if folder is None:
        shutil.rmtree(base, ignore_errors=True)


@attrs.frozen(kw_only=True)
class Judge:
    """A run of the model on one rank, with which any number of layouts can be compared."""

    recipe: Recipe
    """Its own, on one rank."""
    steps: int
    base: Path
    """Folder of its run, ``judge``, and of those compared with it."""
    disabled: Sequence[str] = ()

    @classmethod
    def run(
        cls, recipe: Recipe, base: Path, *, steps: int = STEPS, disabled: Sequence[str] = ()
    ) -> Judge:
        """Run it, and keep its weights of every iteration.

        Args:
            recipe: What is verified, in any layout.
            base: A folder, made if needed.
            steps: Iterations.
            disabled: Installed plugins to leave out.

        Raises:
            RecipeError: a module draws random numbers.
            RunFailedError: the run failed.
        """
        judge = cls(recipe=judges(recipe, steps), steps=steps, base=base, disabled=disabled)
        judge._run(judge.recipe, "judge")
        for rank in judge._summary("judge")["ranks"]:
            for module, dropout in rank["dropout"].items():
                if dropout:
                    raise RecipeError(
                        f"module {module!r} has dropout {dropout}: it draws other numbers in every "
                        "layout, so there is nothing to compare; verify it with dropout 0 (an "
                        f"option of its plugin: modules.{module}.options)",
                        code="verify.dropout",
                        module=module,
                        dropout=dropout,
                    )
        judge._keep_initial()
        return judge

    def compare(self, recipe: Recipe, name: str) -> Verdict:
        """Run a layout of the same model and samples from the judge's weights, and compare.

        Args:
            recipe: The model in its layout.
            name: Of the folder that its run gets.

        Raises:
            MimoError: the recipe is of another model, or of other microbatches.
            RunFailedError: the run failed.
        """
        if judges(recipe, self.steps) != self.recipe:
            raise MimoError(
                "this recipe differs from the judge's in more than grids (train.micro_batch_size "
                "must be equal too: losses of routers are means over microbatches)",
                code="verify.other-recipe",
            )
        self._run(layouts(recipe, self.steps, self._initial), name)
        from mimo_core.verify.weights import compare_weights

        rows = compare_iterations(
            self._summary("judge")["iterations"], self._summary(name)["iterations"]
        )
        changes, frozen = compare_weights(
            {module: part.freeze for module, part in recipe.modules.items()},
            self._checkpoints("judge"),
            self._checkpoints(name),
            self.steps,
        )
        order = list(TOLERANCES)
        rows = sorted(rows + changes, key=lambda row: (row.step, order.index(row.quantity)))
        return Verdict(rows=tuple(rows), frozen=frozen)

    @property
    def _initial(self) -> Path:
        return self.base / "initial"

    def _checkpoints(self, name: str) -> Path:
        return RunDirectory(self.base / name).checkpoints(None)

    def _summary(self, name: str) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads(
            RunDirectory(self.base / name).summary.read_text(encoding="utf-8")
        )
        return summary

    def _run(self, recipe: Recipe, name: str) -> None:
        """A run by the command."""
        self.base.mkdir(parents=True, exist_ok=True)
        path = self.base / f"{name}.yaml"
        path.write_text(dump(recipe), encoding="utf-8")
        command = [sys.executable, "-m", "mimo_core.cli.pretrain", str(path)]
        command += ["--run-dir", str(self.base / name)]
        for plugin in self.disabled:
            command += ["--no-plugin", plugin]
        environ = {**os.environ, **_FULL_PRODUCTS, "COLUMNS": "100"}
        done = subprocess.run(
            command,
            env=environ,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        printed = done.stderr.strip()
        first, *more = problems_in(printed)
        if done.returncode == 2:
            first = attrs.evolve(first, message=f"the run of the {name}: {first.message}")
            raise RecipeError.of([first, *more])
        if done.returncode:
            raise RunFailedError(f"the run of the {name} failed: {printed}", code=first.code)
        summary = RunDirectory(self.base / name).read_summary()
        if not (summary or {}).get("finished"):
            raise RunFailedError(
                f"the run of the {name} was stopped before its end, so not all can be compared: by "
                "SIGTERM, or by megatron.exit_interval or megatron.exit_duration_in_mins "
                f"[{_STOPPED}]",
                code=_STOPPED,
            )

    def _keep_initial(self) -> None:
        """A folder with the checkpoint of iteration 0 alone."""
        checkpoint = self._checkpoints("judge") / "iter_0000000"
        self._initial.mkdir()
        (self._initial / checkpoint.name).symlink_to(checkpoint.absolute())
        (self._initial / TRACKER).write_text("0", encoding="utf-8")
