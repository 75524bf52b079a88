"""Results, as a person reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from benchmarks.measure import Result


def tables(results: Sequence[Result]) -> Iterator[Table]:
    """A row for each run, and a row for each module of each run: its work of a step, and what
    an iteration that was recorded says of it."""
    # Where none was skipped there is nothing to say of it.
    skipped = ["skipped"] if any(result.skipped for result in results) else []
    of_runs = ("ranks", "s/iteration", "range", "target", "tokens/s", "first s")
    runs = _table("benchmark", *of_runs, *skipped)
    modules = _table("benchmark", "module", "TFLOP", "TFLOP/s/rank", "MFU", "media/s", "peak GiB")
    recorded = _table("benchmark", "module", "bubble", "exposed communication")
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
            *(f"{result.skipped} of {result.iterations}" for _ in skipped),
        )
        for name, module in result.modules.items():
            rate, work = module.get("flops_per_second_per_rank"), module.get("flops_per_step")
            modules.add_row(
                result.benchmark,
                name,
                _number(work and work / 1e12, ".4g"),
                _number(rate and rate / 1e12, ".3g"),
                _number(module.get("mfu"), ".1%"),
                _number(module.get("media_per_second"), ".1f"),
                _number((result.memory.get(name) or 0) / 2**30 or None, ".1f"),
            )
            if "bubble_fraction" in module:
                shares = ("bubble_fraction", "exposed_communication_fraction")
                told = (_number(module[share], ".1%") for share in shares)
                recorded.add_row(result.benchmark, name, *told)
    yield from (shown for shown in (runs, modules, recorded) if shown.row_count)


def notes(results: Sequence[Result]) -> Iterator[str]:
    """What the tables do not say."""
    for result in results:
        if result.failed:
            yield f"{result.benchmark} failed:\n{result.failed}"
            if result.folder:
                yield f"its folder is kept: {result.folder}"
            continue
        if result.iterations < result.asked:
            yield (
                f"{result.benchmark} ended early: {result.iterations} of {result.asked} iterations "
                f"ran, {result.steps} timed"
            )
        if result.skipped:
            yield (
                f"{result.benchmark} skipped {result.skipped} of {result.iterations} iterations, "
                "as gradients were not finite, and they are not timed"
            )


def _table(*columns: str) -> Table:
    shown = Table(box=None, header_style="dim", pad_edge=False)
    for number, name in enumerate(columns):
        shown.add_column(name, justify="left" if number == 0 or name == "module" else "right")
    return shown


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
