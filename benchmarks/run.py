"""Runs benchmarks, prints a table and writes JSON.

python -m benchmarks.run                        those that fit this machine's GPUs
python -m benchmarks.run 2gpu-frozen --repeat 3
python -m benchmarks.run recipe.yaml            any recipe
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import attrs
import typer
from rich.console import Console

from benchmarks.machine import gpus, machine
from benchmarks.measure import Result, run
from benchmarks.series import Folders, Stopped, stoppable
from benchmarks.suite import SUITE, Benchmark, named
from benchmarks.tables import notes, tables
from mimo_core import platforms
from mimo_core.errors import MimoError
from mimo_core.planning.plan import make_plan

_TOO_FEW_GPUS = "benchmark.too-few-gpus"
app = typer.Typer(add_completion=False)


@app.command()
def main(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Benchmarks or recipes; by default what the GPUs here can run."),
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override of every recipe."),
    ] = None,
    warm: Annotated[
        int, typer.Option(min=1, help="Iterations at the beginning that are not timed.")
    ] = 10,
    repeat: Annotated[int, typer.Option(min=1, help="Runs of each benchmark.")] = 1,
    out: Annotated[Path, typer.Option(help="File for the JSON.")] = Path("benchmarks.json"),
    keep: Annotated[
        Path | None,
        typer.Option(help="Keep the run folders in this new folder; by default those that failed."),
    ] = None,
) -> None:
    """Time the steady iterations of whole runs by the command."""
    console = Console()
    try:
        _check_places(out, keep)
        platforms.check()
        chosen = _chosen(names or (), len(gpus()))
        asked = [_check(benchmark, warm, change or ()) for benchmark in chosen]
    except MimoError as error:
        _say(console, str(error), style="red")
        raise typer.Exit(2) from None
    results: list[Result] = []
    stopped: Stopped | None = None
    try:
        with stoppable(), Folders(keep) as folders:
            for benchmark, iterations in zip(chosen, asked, strict=True):
                for number in range(repeat):
                    _say(console, f"{benchmark.name}, run {number + 1} of {repeat} …")
                    folder, result = folders.new(benchmark.name), None
                    try:
                        result = run(
                            benchmark,
                            folder=folder,
                            asked=iterations,
                            warm=warm,
                            overrides=change or (),
                        )
                    finally:
                        failed = result is not None and result.failed is not None
                        kept = folders.done(folder, failed=failed)
                    results.append(attrs.evolve(result, folder=kept))
                    # After each: an interrupted series keeps what it has measured.
                    _write(out, results, warm)
    except Stopped as error:
        stopped = error
    for shown in tables(results):
        console.print(shown)
    for note in notes(results):
        _say(console, note)
    if results:
        _say(console, f"written to {out}")
    if stopped is not None:
        _say(console, f"stopped by {stopped.name} after {_many(len(results), 'run')}", style="red")
        raise typer.Exit(stopped.exit_code)
    if any(result.failed for result in results):
        raise typer.Exit(1)


def _say(console: Console, text: str, style: str | None = None) -> None:
    """As it is: paths in it are not broken."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _write(out: Path, results: Sequence[Result], warm: int) -> None:
    told = {
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "warm": warm,
        "machine": machine(),
        "results": [attrs.asdict(result) for result in results],
    }
    out.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def _chosen(names: Sequence[str], count: int) -> list[Benchmark]:
    """The benchmarks that are named, or those that so many GPUs can run.

    Raises:
        MimoError: a recipe is wrong, or there are too few GPUs.
    """
    chosen = [named(name) for name in names]
    chosen = chosen or [benchmark for benchmark in SUITE if benchmark.ranks <= count]
    if not chosen:
        known = ", ".join(f"{one.name} ({_many(one.ranks, 'GPU')})" for one in SUITE)
        raise MimoError(
            f"no benchmark fits {_many(count, 'GPU')}; name a recipe: known are {known}",
            code=_TOO_FEW_GPUS,
            gpus=count,
        )
    for benchmark in chosen:
        if benchmark in SUITE and benchmark.ranks > count:
            raise MimoError(
                f"{benchmark.name} needs {_many(benchmark.ranks, 'GPU')}, and this machine has "
                f"{count}; any recipe can be named instead",
                code=_TOO_FEW_GPUS,
                benchmark=benchmark.name,
                needed=benchmark.ranks,
                gpus=count,
            )
    return chosen


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _check(benchmark: Benchmark, warm: int, change: Sequence[str]) -> int:
    """Plan it as it will be run; gives its number of iterations.

    Raises:
        MimoError: the recipe is wrong, or has nothing to time.
    """
    train = make_plan(benchmark.recipe, [*benchmark.overrides, *change]).recipe.train
    if train.iterations <= warm:
        raise MimoError(
            f"{benchmark.name} trains {_many(train.iterations, 'iteration')}, and with "
            f"--warm {warm} none of them is timed: raise train.iterations (--set "
            "train.iterations=…) or lower --warm",
            code="benchmark.nothing-timed",
            benchmark=benchmark.name,
            iterations=train.iterations,
            warm=warm,
        )
    return train.iterations


def _check_places(out: Path, keep: Path | None) -> None:
    """Before anything is run.

    Raises:
        MimoError: the results could not be written.
    """
    if out.is_dir():
        raise _refused(
            f"--out {out} is a folder; name a file in it: {out / 'benchmarks.json'}", out
        )
    parent = out.absolute().parent
    if not parent.is_dir():
        raise _refused(f"--out {out}: there is no folder {parent}", out)
    if not os.access(out if out.exists() else parent, os.W_OK):
        raise _refused(f"--out {out} cannot be written: permission is denied", out)
    if keep is not None and keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise _refused(f"--keep {keep} is not empty; give a new folder", keep)


def _refused(message: str, place: Path) -> MimoError:
    return MimoError(message, code="benchmark.refused-place", place=str(place))


if __name__ == "__main__":
    app()
