"""One benchmark: a run by the command, and what its steady iterations say."""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from benchmarks.suite import Benchmark

_PATIENCE = 30.0
"""Seconds that a run has to end its ranks, once it is told to."""
_SHOWN = 40
"""Lines of a failed run's last words: the cause comes first, then those of a rank's log."""


@attrs.frozen(kw_only=True)
class Result:
    """What was measured; ``failed`` instead where nothing was.

    All rates are those of the mean timed iteration in the median time.
    """

    benchmark: str
    ranks: int
    overrides: Sequence[str]
    asked: int = 0
    """Iterations that the recipe trains."""
    iterations: int = 0
    """Iterations that ran."""
    skipped: int = 0
    """Of those that ran, warm-up included: gradients were not finite, and no weight was changed."""
    steps: int = 0
    """Iterations that were timed: after those that warm up, and not skipped."""
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
    """Of each module what ``summary.json`` says: FLOPs, MFU, media or tokens a second; and of an
    iteration that was recorded, bubble and exposed communication."""
    memory: Mapping[str, int] = attrs.field(factory=dict)
    """By module: bytes of device memory allocated at most, of the rank that takes most."""
    failed: str | None = None
    folder: str | None = None
    """The run's folder, where it was kept."""


def run(
    benchmark: Benchmark, *, folder: Path, asked: int, warm: int, overrides: Sequence[str]
) -> Result:
    """Run a benchmark in a folder of its own. Where this is interrupted, no rank is left.

    Args:
        benchmark: What to run.
        folder: For the run, empty or to be made.
        asked: Iterations that it trains.
        warm: Iterations at the beginning that are not timed, one or more.
        overrides: Of the recipe, beyond the benchmark's own.
    """
    given = [*benchmark.overrides, *overrides]
    command = [sys.executable, "-m", "mimo_core.cli.pretrain", benchmark.recipe, *given]
    code, said = _wait_for([*command, "--run-dir", str(folder)])
    wrong = Result(benchmark=benchmark.name, ranks=benchmark.ranks, overrides=given, asked=asked)
    if code:
        said = "\n".join(said.splitlines()[-_SHOWN:])
        return attrs.evolve(wrong, failed=said or f"exit code {code}")
    summary = folder / "summary.json"
    if not summary.exists():
        return attrs.evolve(wrong, failed=f"it was stopped before an iteration was done:\n{said}")
    figures = folder / "profile" / "figures.json"
    profile = json.loads(figures.read_text(encoding="utf-8")) if figures.exists() else None
    return read(
        benchmark, json.loads(summary.read_text(encoding="utf-8")), asked, warm, given, profile
    )


def _wait_for(command: Sequence[str]) -> tuple[int, str]:
    """Exit code and last words of a process that gets no signal of this one's terminal: it is told
    by this one alone, and once."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    try:
        output, errors = process.communicate()
    except BaseException:
        try:
            # A run that hears it ends all its ranks at once.
            process.send_signal(signal.SIGHUP)
            process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            pass
        finally:
            process.kill()
            process.wait()
        raise
    return process.returncode, errors.strip() or output.strip()


def read(
    benchmark: Benchmark,
    summary: Mapping[str, Any],
    asked: int,
    warm: int,
    overrides: Sequence[str],
    profile: Mapping[str, Any] | None = None,
) -> Result:
    """What a run's summary says.

    Args:
        benchmark: What was run.
        summary: Its ``summary.json``.
        asked: Iterations that it trains.
        warm: Iterations at the beginning that are not timed, one or more: the first that a command
            runs has no iteration before it.
        overrides: It was run with.
        profile: The ``figures.json`` of an iteration, where one was recorded: it and the next are
            not timed, and its shares are told.
    """
    rows = summary["iterations"]
    result = Result(
        benchmark=benchmark.name,
        ranks=summary["world_size"],
        overrides=list(overrides),
        asked=asked,
        iterations=len(rows),
        skipped=sum(_skipped(row) for row in rows),
    )
    recorded = profile["iteration"] if profile else None
    # The one that was recorded, and the next: what was recorded is drawn and written before it.
    spoilt = () if recorded is None else (recorded, recorded + 1)
    timed = [row for row in rows[warm:] if not _skipped(row) and row["iteration"] not in spoilt]
    if not timed:
        return attrs.evolve(result, failed=_why_nothing(result, warm, recorded))
    seconds = [row["elapsed_seconds"] for row in timed]
    median = statistics.median(seconds)
    return attrs.evolve(
        result,
        steps=len(timed),
        median=median,
        step=statistics.median(row["step_seconds"] for row in timed),
        fastest=min(seconds),
        slowest=max(seconds),
        hand_wired=benchmark.hand_wired,
        target=benchmark.target,
        first_iteration=summary["seconds_to_first_iteration"],
        tokens_per_second=_tokens(timed) / median,
        modules={
            name: _module(name, told, timed, median) | _shares(name, profile)
            for name, told in summary["modules"].items()
        },
        memory=_memory(summary["ranks"]),
    )


def _skipped(row: Mapping[str, Any]) -> bool:
    return row["loss"] is None


def _why_nothing(result: Result, warm: int, recorded: int | None) -> str:
    if recorded is not None and warm < result.iterations <= max(warm, recorded - 1) + 2:
        return (
            f"iteration {recorded} was recorded, which is not timed, nor is the one after it: "
            f"nothing is left of {result.iterations} with {warm} that warm up; raise "
            "train.iterations"
        )
    if result.iterations > warm:
        return (
            f"every iteration after the warm-up was skipped ({result.skipped} of "
            f"{result.iterations} in all): gradients were not finite; a smaller "
            "train.learning_rate may help"
        )
    return (
        f"{result.iterations} of {result.asked} iterations ran, fewer than train.iterations asks "
        f"for, and {warm} warm up: nothing is left to time (a setting such as "
        "megatron.exit_interval ends a run early, and so does SIGTERM)"
    )


def _tokens(timed: Sequence[Mapping[str, Any]]) -> float:
    """Sequence positions of the mean iteration."""
    return statistics.fmean(row["positions"] for row in timed)


def _module(
    name: str, told: Mapping[str, Any], timed: Sequence[Mapping[str, Any]], seconds: float
) -> dict[str, Any]:
    """A module's figures of the timed iterations, in the place of those of the whole run.

    Args:
        name: Of the module.
        told: What the summary says of it.
        timed: Rows of the summary.
        seconds: Of an iteration.
    """
    now = dict(told)
    if told.get("flops_per_second_per_rank"):
        flops = statistics.fmean(row["flops"][name] for row in timed)
        rate = flops / (seconds * told["ranks"])
        if told.get("mfu") is not None:
            now["mfu"] = told["mfu"] * rate / told["flops_per_second_per_rank"]
        now |= {"flops_per_step": flops, "flops_per_second_per_rank": rate}
    if told.get("media_per_second") is not None:
        now["media_per_second"] = statistics.fmean(row["media"][name] for row in timed) / seconds
    if told.get("tokens_per_second") is not None:
        now["tokens_per_second"] = _tokens(timed) / seconds
    return now


def _shares(name: str, profile: Mapping[str, Any] | None) -> dict[str, float]:
    """Bubble and exposed communication of a module in the iteration that was recorded."""
    told = (profile or {"modules": {}})["modules"].get(name, {})
    return {
        share: told[share]
        for share in ("bubble_fraction", "exposed_communication_fraction")
        if share in told
    }


def _memory(ranks: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for rank in ranks:
        # A rank of several modules names them all.
        for module in rank["module"].split(", "):
            found[module] = max(found.get(module, 0), rank["peak_memory_bytes"])
    return found
