"""The benchmarks can be run: their recipes plan, and the script measures and tells failures."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.floor import Share, floor, shares
from benchmarks.kernels import app as kernels
from benchmarks.measure import read, run
from benchmarks.run import app
from benchmarks.suite import SUITE, Benchmark, named
from mimo_core.plan import make_plan

from .conftest import HERE, TIMEOUT


@pytest.mark.parametrize("benchmark", SUITE, ids=lambda one: one.name)
def test_a_benchmark_is_a_full_sequence_on_its_number_of_ranks(benchmark) -> None:
    plan = make_plan(benchmark.recipe, benchmark.overrides)
    assert plan.layout.world_size == benchmark.ranks
    frozen = any(module.freeze for module in plan.graph.modules.values())
    assert frozen == ("frozen" in benchmark.name)
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
    row = {"positions": 10, "step_seconds": 0.5, "flops": {"vision": 8.0}, "media": {"vision": 4}}
    summary = {
        "world_size": 2,
        "seconds_to_first_iteration": 5.0,
        "iterations": [{**row, "elapsed_seconds": seconds} for seconds in (9.0, 2.0, 1.0, 3.0)],
        "modules": {
            "vision": {
                "ranks": 2,
                "flops_per_second_per_rank": 1.0,
                "mfu": 0.25,
                "media_per_second": 1.0,
            }
        },
        "ranks": [
            {"module": "vision", "peak_memory_bytes": 5},
            {"module": "vision", "peak_memory_bytes": 7},
        ],
    }
    result = read(SUITE[0], summary, 1, [])
    assert (result.fastest, result.median, result.slowest) == (1.0, 2.0, 3.0)
    assert result.tokens_per_second == 5.0
    vision = result.modules["vision"]
    assert (vision["flops_per_second_per_rank"], vision["mfu"]) == (2.0, 0.5)
    assert vision["media_per_second"] == 2.0
    assert result.memory == {"vision": 7}
    assert "too low" in (read(SUITE[0], summary, 4, []).failed or "")


def share(module: str, training: float, ranks: int = 1, stages: int = 1) -> Share:
    return Share(module=module, ranks=ranks, forward=0.0, training=training, stages=stages, sent=0)


def test_the_floor_is_that_of_the_module_that_is_busy_longest() -> None:
    """At 1 FLOP/s; the language model waits for an encoder's first forward, and the encoder's last
    backward comes after it."""
    vision, language = share("vision", 6.0), share("language", 8.0)
    assert floor((vision, language), 4, 1.0).seconds == 4 * 8 + 6
    assert floor((share("vision", 10.0), language), 4, 1.0).module == "language"
    assert floor((share("vision", 16.0), language), 4, 1.0).seconds == 4 * 16
    assert floor((vision, language), 4, 1.0, colocated=True).seconds == 4 * (6 + 8)
    staged = share("language", 8.0, ranks=2, stages=2)
    assert floor((staged,), 4, 1.0).seconds == (4 + 1) * 8 / 2


def test_the_shares_are_those_of_the_published_sizes() -> None:
    """ViT-H/16: 32 layers of width 1280, 8192 patches that all attend to each other, two samples a
    microbatch; a projector and the patches' embedding come on top."""
    vision, language = shares(
        make_plan(named("2gpu-trainable").recipe, ["train.micro_batch_size=2"])
    )
    layers = 32 * (2 * 12 * 1280**2 * 8192 + 4 * 1280 * 8192**2)
    assert vision.forward == pytest.approx(2 * layers, rel=0.02)
    assert vision.training == 3 * vision.forward
    assert vision.sent == 2 * 2048 * 2688 * 2
    assert language.training == 3 * language.forward
    half = named("2gpu-frozen")
    (frozen, _) = shares(make_plan(half.recipe, half.overrides))
    assert frozen.training < 1.02 * frozen.forward, "the projector alone goes back"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["2gpu-frozen"], "2gpu-frozen needs 2 GPUs, and this machine has 0"),
        (["demo", "--warm", "300"], "demo trains 300 iterations, of which 300 warm up"),
        (["demo", "--out", "/nowhere/x.json"], "there is no folder /nowhere"),
        (["demo", "--set", "train.iteration=3"], "train.iteration"),
        (["no-such-recipe"], "there is no such recipe"),
    ],
)
def test_what_cannot_be_measured_is_told_before_anything_runs(monkeypatch, given, said) -> None:
    monkeypatch.setattr("benchmarks.run.gpus", list)
    monkeypatch.setattr("benchmarks.run.run", pytest.fail)
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())


def test_a_gpu_is_busy_where_anything_runs(tmp_path: Path) -> None:
    """Two kernels beside each other, a gap, a copy; the host's work is none of it."""
    events = [
        {"cat": "kernel", "name": "product", "ts": 10.0, "dur": 1000.0},
        {"cat": "kernel", "name": "norm", "ts": 510.0, "dur": 1000.0},
        {"cat": "gpu_memcpy", "name": "copy", "ts": 3010.0, "dur": 500.0},
        {"cat": "kernel", "name": "product", "ts": 3510.0, "dur": 500.0},
        {"cat": "cpu_op", "name": "aten::mm", "ts": 0.0, "dur": 9000.0},
        {"name": "process_name", "ph": "M"},
    ]
    trace = tmp_path / "kernels-rank-0.json.gz"
    trace.write_bytes(gzip.compress(json.dumps({"traceEvents": events}).encode()))
    told = CliRunner().invoke(kernels, [str(trace)]).output
    assert told.splitlines()[0] == "busy 2.5 of 4.0 ms"
    rows = [line.split() for line in told.splitlines()[1:]]
    due = [["1.50", "ms", "2", "product"], ["1.00", "ms", "1", "norm"], ["0.50", "ms", "1", "copy"]]
    assert rows == due
    trace.write_bytes(gzip.compress(json.dumps({"traceEvents": events[4:]}).encode()))
    assert "was it recorded on a GPU?" in CliRunner().invoke(kernels, [str(trace)]).output
