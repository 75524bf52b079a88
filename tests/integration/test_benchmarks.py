"""The benchmarks can be run: their recipes plan, and the script measures and tells failures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.measure import Result, read, run
from benchmarks.run import app
from benchmarks.suite import SUITE, Benchmark
from benchmarks.tables import notes, tables
from mimo_core.launch.failure import Failure
from mimo_core.planning.plan import make_plan

from ..helpers.paths import RECIPES, ROOT
from ..helpers.runs import TIMEOUT

TINY = str(RECIPES / "tiny.yaml")


@pytest.mark.parametrize("case", SUITE, ids=lambda one: one.name)
def test_a_benchmark_is_a_full_sequence_on_its_number_of_ranks(case: Benchmark) -> None:
    plan = make_plan(case.recipe, case.overrides)
    assert plan.layout.world_size == case.ranks
    frozen = any(module.freeze for module in plan.graph.modules.values())
    assert frozen == ("frozen" in case.name)
    train = plan.recipe.train
    dp = plan.layout.grids["language"].dp
    assert train.global_batch_size == 8 * train.micro_batch_size * dp, "8 microbatches a rank"
    assert max(sample.total for sample in plan.preview) == train.sequence_length


def test_the_script_measures_a_recipe(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    given = [TINY, "--warm", "2", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.run", *given],
        env={**os.environ, "COLUMNS": "100"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(out.read_text())
    (result,) = told["results"]
    assert (result["steps"], result["iterations"], result["skipped"]) == (2, 4, 0)
    assert 0 < result["fastest"] <= result["median"] <= result["slowest"]
    assert result["tokens_per_second"] == 16 * 16 / result["median"]
    assert result["modules"]["language"]["tokens_per_second"] == result["tokens_per_second"]
    assert told["machine"]["packages"]["torch"]
    assert "tiny" in done.stdout


def test_a_run_that_fails_is_told_and_has_no_figures(tmp_path: Path) -> None:
    benchmark = Benchmark(name="wrong", recipe=TINY, ranks=2)
    given = {"folder": tmp_path / "run", "asked": 4, "warm": 1}
    result = run(benchmark, **given, overrides=["train.iteration=4"])
    assert result.median is None
    assert "train.iteration" in (result.failed or "")


def test_the_cause_of_a_failure_is_told_before_the_log(tmp_path: Path, monkeypatch) -> None:
    log = tmp_path / "rank-0.log"
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    message = "was ended by signal SIGKILL"
    failure = Failure(rank=0, label="rank 0", message=message, log=str(log), silent=True)
    monkeypatch.setattr("benchmarks.measure._wait_for", lambda _command: (1, failure.text()))
    benchmark = Benchmark(name="killed", recipe=TINY, ranks=2)
    failed = run(benchmark, folder=tmp_path / "run", asked=4, warm=1, overrides=[]).failed or ""
    assert failed.startswith("rank 0 was ended by signal SIGKILL")
    assert "line 99" in failed and failed.endswith(f"its log: {log}")


ROW = {
    "loss": 1.0,
    "positions": 10,
    "step_seconds": 0.5,
    "flops": {"vision": 8.0},
    "media": {"vision": 4},
}


def summary(*seconds: float | None, **changes: Any) -> dict[str, Any]:
    """Of a run whose iterations took so long; its own figures are those of the whole run."""
    return {
        "world_size": 2,
        "seconds_to_first_iteration": 5.0,
        "iterations": [
            {**ROW, "iteration": number, "elapsed_seconds": second}
            for number, second in enumerate(seconds, start=1)
        ],
        "modules": {
            "vision": {
                "ranks": 2,
                "flops_per_step": 7.0,
                "flops_per_second_per_rank": 1.0,
                "mfu": 0.25,
                "media_per_second": 1.0,
                "tokens_per_second": None,
            },
            "language": {"ranks": 1, "flops_per_second_per_rank": None, "tokens_per_second": 1.0},
        },
        "ranks": [
            {"module": "vision", "peak_memory_bytes": 5},
            {"module": "vision, language", "peak_memory_bytes": 7},
        ],
        **changes,
    }


def test_all_figures_are_of_the_timed_iterations_in_their_median_time() -> None:
    result = read(SUITE[0], summary(None, 9.0, 2.0, 1.0, 6.0), 5, 2, [])
    assert (result.fastest, result.median, result.slowest, result.steps) == (1.0, 2.0, 6.0, 3)
    assert result.tokens_per_second == result.modules["language"]["tokens_per_second"] == 5.0
    vision = result.modules["vision"]
    assert (vision["flops_per_step"], vision["flops_per_second_per_rank"]) == (8.0, 2.0)
    assert (vision["mfu"], vision["media_per_second"]) == (0.5, 2.0)
    assert result.memory == {"vision": 7, "language": 7}
    assert not list(notes([result]))


def test_a_recorded_iteration_is_told_and_not_timed() -> None:
    """Nor is the next, before which it is drawn."""
    shares = {"bubble_fraction": 0.25, "exposed_communication_fraction": 0.5}
    profile = {"iteration": 3, "modules": {"vision": {**shares, "ranks": [0]}}}
    given = SUITE[0], summary(None, 1.0, 7.0, 8.0, 1.0), 5, 1, []
    result = read(*given, profile)
    assert (result.steps, result.fastest, result.slowest) == (2, 1.0, 1.0)
    assert {name: result.modules["vision"][name] for name in shares} == shares
    *_, told = tables([result])
    assert [[*column.cells] for column in told.columns][1:] == [["vision"], ["25.0%"], ["50.0%"]]
    assert len([*tables([read(*given)])]) == 2
    failed = read(SUITE[0], summary(None, 1.0, 7.0, 8.0), 4, 2, [], profile).failed
    assert "iteration 3 was recorded, which is not timed, nor is the one after it" in (failed or "")


def test_skipped_iterations_are_told_and_not_timed() -> None:
    told = summary(None, 2.0, 1.0, 6.0, 1.0)
    for at in (0, 4):
        told["iterations"][at] = {**told["iterations"][at], "loss": None}
    result = read(SUITE[0], told, 5, 1, [])
    assert (result.skipped, result.iterations, result.steps) == (2, 5, 3)
    assert (result.fastest, result.median, result.failed) == (1.0, 2.0, None)
    assert [*next(tables([result])).columns[-1].cells] == ["2 of 5"]
    (note,) = notes([result])
    assert "skipped 2 of 5 iterations, as gradients were not finite" in note
    for row in told["iterations"]:
        row["loss"] = None
    failed = read(SUITE[0], told, 5, 1, []).failed
    assert "every iteration after the warm-up was skipped (5 of 5 in all)" in (failed or "")


def test_a_run_that_ends_early_is_told() -> None:
    failed = read(SUITE[0], summary(None, 2.0), 30, 10, []).failed
    assert "2 of 30 iterations ran, fewer than train.iterations asks for" in (failed or "")
    (note,) = notes([read(SUITE[0], summary(None, 2.0, 2.0), 30, 1, [])])
    assert "ended early: 3 of 30 iterations ran, 2 timed" in note


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "8gpu-frozen (8 GPUs) [benchmark.too-few-gpus]"),
        (["2gpu-frozen"], "[benchmark.too-few-gpus]"),
        (["demo", "--warm", "300"], "[benchmark.nothing-timed]"),
        ([TINY, "--set", "train.iterations=1"], "[benchmark.nothing-timed]"),
        (["demo", "--warm", "0"], "greater than or equal to 1"),
        (["demo", "--out", "/nowhere/x.json"], "no folder /nowhere [benchmark.refused-place]"),
        (["demo", "--out", "/"], "/benchmarks.json [benchmark.refused-place]"),
        (["demo", "--set", "train.iteration=3"], "[recipe.unknown-key]"),
        (["no-such-recipe"], "[recipe.not-found]"),
    ],
)
def test_what_cannot_be_measured_is_told_before_anything_runs(monkeypatch, given, said) -> None:
    monkeypatch.setattr("benchmarks.run.gpus", list)
    monkeypatch.setattr("benchmarks.run.run", pytest.fail)
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())


def test_an_environment_that_no_run_would_take_is_told_before(monkeypatch) -> None:
    monkeypatch.setattr("benchmarks.run.run", pytest.fail)
    monkeypatch.setenv("MIMO_PEAK_TFLOPS", "abc")
    done = CliRunner().invoke(app, ["demo"])
    assert (done.exit_code, done.output.split(":")[0]) == (2, "MIMO_PEAK_TFLOPS=abc")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch) -> Path:
    """Where temporary folders are made, and the results written."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_folder_of_a_failed_run_is_kept_and_no_other(temporary: Path, monkeypatch) -> None:
    folders = []

    def ended(benchmark: Benchmark, *, folder: Path, **_rest: Any) -> Result:
        folder.mkdir()
        folders.append(folder)
        failed = f"see {folder}" if len(folders) == 2 else None
        given = {"ranks": 1, "overrides": [], "fastest": 1.0, "slowest": 1.0}
        return Result(benchmark=benchmark.name, **given, failed=failed)

    monkeypatch.setattr("benchmarks.run.run", ended)
    done = CliRunner().invoke(app, ["demo", "demo", "--repeat", "2"])
    assert done.exit_code == 1
    assert len({*folders}) == 4, "of two benchmarks of one name none takes the other's"
    assert [folder.exists() for folder in folders] == [False, True, False, False]
    assert f"its folder is kept: {folders[1]}" in done.output
    told = json.loads((temporary / "benchmarks.json").read_text())["results"]
    assert [result["folder"] for result in told] == [None, str(folders[1]), None, None]


def test_a_signal_leaves_no_process_and_no_folder(tmp_path: Path) -> None:
    """Instead of a run something that never ends and has written into its folder."""
    script = f"""
import sys
from pathlib import Path
from benchmarks import measure, run

real = measure._wait_for
def endless(command):
    folder = Path(command[-1])
    code = ("import os, pathlib, time; "
            f"pathlib.Path({{str(folder)!r}}).mkdir(); "
            "pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(os.getpid())); "
            "time.sleep(600)")
    return real([sys.executable, "-c", code])
measure._wait_for = endless
run.app(["demo", "--out", {str(tmp_path / "out.json")!r}])
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        pid = tmp_path / "pid"
        end = time.monotonic() + TIMEOUT
        while not (pid.exists() and pid.read_text()) and time.monotonic() < end:
            time.sleep(0.05)
        assert list(tmp_path.glob("mimo-benchmarks-*/demo-1"))
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM after 0 runs" in said
    assert not list(tmp_path.glob("mimo-benchmarks-*"))
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
