"""Runs benchmarks, prints a table and writes JSON.

python -m benchmarks.run                        those that fit this machine's GPUs
python -m benchmarks.run 2gpu-frozen --repeat 3
python -m benchmarks.run recipe.yaml            any recipe
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import attrs
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.machine import gpus, machine
from benchmarks.measure import Result, run
from benchmarks.suite import SUITE, Benchmark, named
from mimo_core.errors import MimoError
from mimo_core.plan import make_plan

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
    warm: Annotated[int, typer.Option(min=0, help="Iterations that are not timed.")] = 10,
    repeat: Annotated[int, typer.Option(min=1, help="Runs of each benchmark.")] = 1,
    out: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("benchmarks.json"),
    keep: Annotated[
        Path | None, typer.Option(help="Keep the run folders in this new folder.")
    ] = None,
) -> None:
    """Time the steady iterations of whole runs by the command."""
    console = Console()
    try:
        chosen = _chosen(names or (), len(gpus()))
        for benchmark in chosen:
            _check(benchmark, warm, change or ())
        _check_places(out, keep)
    except MimoError as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(2) from None
    results = []
    with tempfile.TemporaryDirectory(prefix="mimo-benchmarks-") as temporary:
        base = keep or Path(temporary)
        for benchmark in chosen:
            for number in range(repeat):
                console.print(f"{benchmark.name}, run {number + 1} of {repeat} …")
                folder = base / f"{benchmark.name}-{number + 1}"
                results.append(run(benchmark, folder=folder, warm=warm, overrides=change or ()))
                told = {
                    "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                    "warm": warm,
                    "machine": machine(),
                    "results": [attrs.asdict(result) for result in results],
                }
                # After each: an interrupted series keeps what it has measured.
                out.write_text(json.dumps(told, indent=2) + "\n")
    for shown in tables(results):
        console.print(shown)
    for result in results:
        if result.failed:
            console.print(f"{result.benchmark} failed:\n{result.failed}", markup=False)
    console.print(f"written to {out}")
    if any(result.failed for result in results):
        raise typer.Exit(1)


def _chosen(names: Sequence[str], count: int) -> list[Benchmark]:
    """The benchmarks that are named, or those that so many GPUs can run.

    Raises:
        MimoError: a recipe is wrong, or there are too few GPUs.
    """
    chosen = [named(name) for name in names]
    chosen = chosen or [benchmark for benchmark in SUITE if benchmark.ranks <= count]
    if not chosen:
        known = ", ".join(f"{one.name} ({one.ranks} GPUs)" for one in SUITE)
        raise MimoError(f"no benchmark fits {count} GPUs; name a recipe: known are {known}")
    for benchmark in chosen:
        if benchmark in SUITE and benchmark.ranks > count:
            raise MimoError(
                f"{benchmark.name} needs {benchmark.ranks} GPUs, and this machine has {count}; any "
                "recipe can be named instead"
            )
    return chosen


def _check(benchmark: Benchmark, warm: int, change: Sequence[str]) -> None:
    """Plan it as it will be run.

    Raises:
        MimoError: the recipe is wrong, or has nothing to time.
    """
    train = make_plan(benchmark.recipe, [*benchmark.overrides, *change]).recipe.train
    if train.iterations <= warm:
        raise MimoError(
            f"{benchmark.name} trains {train.iterations} iterations, of which {warm} warm up; "
            "--set train.iterations=…, or --warm"
        )


def _check_places(out: Path, keep: Path | None) -> None:
    """Before anything is run.

    Raises:
        MimoError: the results could not be written.
    """
    if not out.absolute().parent.is_dir():
        raise MimoError(f"--out {out}: there is no folder {out.absolute().parent}")
    if keep is not None and keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise MimoError(f"--keep {keep} is not empty; give a new folder")


def tables(results: list[Result]) -> Iterator[Table]:
    """A row for each run, and a row for each module of each run."""
    runs = _table("benchmark", "ranks", "s/iteration", "range", "target", "tokens/s", "first s")
    modules = _table("benchmark", "module", "TFLOP/s/rank", "MFU", "media/s", "peak GiB")
    for result in results:
        if result.failed:
            continue
        runs.add_row(
            result.benchmark,
            str(result.ranks),
            _number(result.median, ".3f"),
            f"{result.fastest:.3f}-{result.slowest:.3f}",
            _number(result.target, ".2f"),
            _number(result.tokens_per_second, ",.0f"),
            _number(result.first_iteration, ".0f"),
        )
        for name, module in result.modules.items():
            rate = module.get("flops_per_second_per_rank")
            modules.add_row(
                result.benchmark,
                name,
                _number(rate and rate / 1e12, ".3g"),
                _number(module.get("mfu"), ".1%"),
                _number(module.get("media_per_second"), ".1f"),
                _number((result.memory.get(name) or 0) / 2**30 or None, ".1f"),
            )
    yield from (shown for shown in (runs, modules) if shown.row_count)


def _table(*columns: str) -> Table:
    shown = Table(box=None, header_style="dim", pad_edge=False)
    for number, name in enumerate(columns):
        shown.add_column(name, justify="left" if number == 0 or name == "module" else "right")
    return shown


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


if __name__ == "__main__":
    app()
