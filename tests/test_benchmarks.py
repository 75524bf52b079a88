"""The benchmarks can be run: their recipes plan, and the script measures and tells failures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.measure import read, run
from benchmarks.suite import SUITE, Benchmark
from mimo_core.plan import make_plan

from .conftest import HERE, TIMEOUT


@pytest.mark.parametrize("benchmark", SUITE, ids=lambda one: one.name)
def test_a_benchmark_is_a_full_sequence_on_its_number_of_ranks(benchmark) -> None:
    plan = make_plan(benchmark.recipe, benchmark.overrides)
    assert plan.layout.world_size == benchmark.ranks
    assert bool(plan.graph.modules["vision"].freeze) == ("frozen" in benchmark.name)
    train = plan.recipe.train
    dp = plan.layout.grids["language"].dp
    assert train.global_batch_size == 8 * train.micro_batch_size * dp, "8 microbatches a rank"
    assert max(sample.total for sample in plan.preview) == train.sequence_length


def test_the_script_measures_a_recipe(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    given = [str(HERE / "recipes" / "tiny.yaml"), "--warm", "2", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.run", *given],
        env={**os.environ, "COLUMNS": "100"},
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(out.read_text())
    (result,) = told["results"]
    assert result["steps"] == 2
    assert 0 < result["fastest"] <= result["median"] <= result["slowest"]
    assert result["tokens_per_second"] > 0
    assert told["machine"]["packages"]["torch"]
    assert "tiny" in done.stdout


def test_a_run_that_fails_is_told_and_has_no_figures(tmp_path: Path) -> None:
    benchmark = Benchmark(name="wrong", recipe=str(HERE / "recipes" / "tiny.yaml"), ranks=2)
    result = run(benchmark, folder=tmp_path / "run", warm=1, overrides=["train.iteration=4"])
    assert result.median is None
    assert "train.iteration" in (result.failed or "")


def test_iterations_that_warm_up_are_not_measured() -> None:
    row = {"positions": 10}
    summary = {
        "world_size": 2,
        "seconds_to_first_iteration": 5.0,
        "iterations": [{**row, "step_seconds": seconds} for seconds in (9.0, 2.0, 1.0, 3.0)],
        "ranks": [
            {"module": "vision", "peak_memory_bytes": 5},
            {"module": "vision", "peak_memory_bytes": 7},
        ],
    }
    result = read(SUITE[0], summary, 1, [])
    assert (result.fastest, result.median, result.slowest) == (1.0, 2.0, 3.0)
    assert result.tokens_per_second == 5.0
    assert result.memory == {"vision": 7}
    assert "too low" in (read(SUITE[0], summary, 4, []).failed or "")
