"""One benchmark: a run by the command, and what its steady iterations say."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from benchmarks.suite import Benchmark


@attrs.frozen(kw_only=True)
class Result:
    """What was measured; ``failed`` instead where nothing was."""

    benchmark: str
    ranks: int
    overrides: Sequence[str]
    steps: int = 0
    """Iterations that were timed, after those that warm up."""
    median: float | None = None
    """Seconds an iteration, from the end of the one before: reports and the loop included."""
    step: float | None = None
    """Median seconds of the step alone."""
    fastest: float | None = None
    slowest: float | None = None
    hand_wired: float | None = None
    target: float | None = None
    first_iteration: float | None = None
    """Seconds from the command to the end of the first iteration."""
    tokens_per_second: float | None = None
    modules: Mapping[str, Any] = attrs.field(factory=dict)
    """What ``summary.json`` says of each module: FLOPs, MFU, media a second; of the timed steps."""
    memory: Mapping[str, int] = attrs.field(factory=dict)
    """By module: bytes of device memory allocated at most, of the rank that takes most."""
    failed: str | None = None


def run(benchmark: Benchmark, *, folder: Path, warm: int, overrides: Sequence[str]) -> Result:
    """Run a benchmark in a folder of its own.

    Args:
        benchmark: What to run.
        folder: For the run, empty or to be made.
        warm: Iterations at the beginning that are not timed.
        overrides: Of the recipe, beyond the benchmark's own.
    """
    given = [*benchmark.overrides, *overrides]
    command = [sys.executable, "-m", "mimo_core.cli.pretrain", benchmark.recipe, *given]
    done = subprocess.run(
        [*command, "--run-dir", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        return Result(
            benchmark=benchmark.name,
            ranks=benchmark.ranks,
            overrides=given,
            failed="\n".join(said[-8:]) or f"exit code {done.returncode}",
        )
    return read(benchmark, json.loads((folder / "summary.json").read_text()), warm, given)


def read(
    benchmark: Benchmark, summary: Mapping[str, Any], warm: int, overrides: Sequence[str]
) -> Result:
    """What a run's summary says.

    Args:
        benchmark: What was run.
        summary: Its ``summary.json``.
        warm: Iterations at the beginning that are not timed.
        overrides: It was run with.
    """
    iterations = summary["iterations"]
    given: dict[str, Any] = {
        "benchmark": benchmark.name,
        "ranks": summary["world_size"],
        "overrides": list(overrides),
    }
    if len(iterations) <= warm:
        said = f"{len(iterations)} iterations, of which {warm} warm up: train.iterations is too low"
        return Result(**given, failed=said)
    steady = iterations[warm:]
    seconds = [row["elapsed_seconds"] for row in steady]
    memory: dict[str, int] = {}
    for rank in summary["ranks"]:
        module = rank["module"]
        memory[module] = max(memory.get(module, 0), rank["peak_memory_bytes"])
    return Result(
        **given,
        steps=len(steady),
        median=statistics.median(seconds),
        step=statistics.median(row["step_seconds"] for row in steady),
        fastest=min(seconds),
        slowest=max(seconds),
        hand_wired=benchmark.hand_wired,
        target=benchmark.target,
        first_iteration=summary["seconds_to_first_iteration"],
        tokens_per_second=sum(row["positions"] for row in steady) / sum(seconds),
        modules={
            name: _timed(name, told, steady, statistics.median(seconds))
            for name, told in summary["modules"].items()
        },
        memory=memory,
    )


def _timed(
    module: str, told: Mapping[str, Any], steady: Sequence[Mapping[str, Any]], seconds: float
) -> dict[str, Any]:
    """A module's figures over the timed iterations, of those that the summary has of the run."""
    now = dict(told)
    if told.get("flops_per_second_per_rank"):
        flops = statistics.fmean(row["flops"][module] for row in steady)
        rate = flops / (seconds * told["ranks"])
        if told.get("mfu") is not None:
            now["mfu"] = told["mfu"] * rate / told["flops_per_second_per_rank"]
        now |= {"flops_per_step": flops, "flops_per_second_per_rank": rate}
    if told.get("media_per_second") is not None:
        now["media_per_second"] = statistics.fmean(row["media"][module] for row in steady) / seconds
    return now
