"""What is told beside the benchmarks: their floors, and what a GPU did in a profiled iteration."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import attrs
import pytest
import typer
from typer.testing import CliRunner

from benchmarks.floor import Share, floor, shares
from benchmarks.floor import main as floors
from benchmarks.kernels import app as kernels
from benchmarks.suite import SUITE, named
from mimo_core.planning.plan import make_plan

from ..helpers.paths import ROOT


def share(
    module: str, training: float, ranks: int = 1, stages: int = 1, carried: float = 0.0
) -> Share:
    given = {"module": module, "ranks": ranks, "stages": stages, "carried": carried}
    return Share(**given, forward=0.0, training=training)


def test_the_floor_is_that_of_the_module_that_is_busy_longest() -> None:
    """At 1 FLOP/s; the language model waits for an encoder's first forward, and the encoder's last
    backward comes after it. Rows go beside all this, at 1 byte/s."""

    def least(*parts: Share, colocated: bool = False) -> tuple[str, str, float]:
        return attrs.astuple(floor(parts, 4, 1.0, 1.0, colocated=colocated))

    vision, language = share("vision", 6.0), share("language", 8.0)
    assert least(vision, language) == ("language", "compute", 4 * 8 + 6)
    assert least(share("vision", 10.0), language)[0] == "language"
    assert least(share("vision", 16.0), language) == ("vision", "compute", 4 * 16)
    assert least(vision, language, colocated=True)[2] == 4 * (6 + 8)
    staged = share("language", 8.0, ranks=2, stages=2)
    assert least(staged) == ("language", "compute", (4 + 1) * 8 / 2)
    assert least(share("vision", 6.0, carried=9.0), language)[2] == 4 * 8 + 6
    assert least(share("vision", 6.0, carried=10.0), language) == ("vision", "link", 4 * 10)


def floors_of(*given: str) -> tuple[int, str]:
    asked = typer.Typer()
    asked.command()(floors)
    done = CliRunner().invoke(asked, given)
    return done.exit_code, done.output


def test_floors_are_printed_as_the_documentation_has_them() -> None:
    code, said = floors_of("--rate", "788")
    assert code == 0
    table = (ROOT / "docs" / "performance.md").read_text()
    rows = {tuple(line.split()[:2]): line.split() for line in said.splitlines()}
    for benchmark in [one.name for one in SUITE if not one.name.startswith("1gpu")]:
        (line,) = (line for line in table.splitlines() if line.startswith(f"| {benchmark} |"))
        due = [cell.strip() for cell in line.strip("|").split("|")][-2:]
        module, busy = due[1].split(": ")
        row = rows[benchmark, module]
        assert " ".join(row[4:7]) == busy.split(" ms")[0]
        assert f"{row[8]} s" == due[0]
        if " after " in busy:
            assert rows[benchmark, "vision"][6] == busy.split("after ")[1].split()[0]


def test_a_slow_link_is_the_floor() -> None:
    """11 MB of rows a microbatch, 8 of them."""
    code, said = floors_of("2gpu-trainable", "--rate", "788", "--link", "0.05")
    assert code == 0
    assert "788 TFLOP/s a rank, 0.05 GB/s a link" in said
    row = next(line.split() for line in said.splitlines() if " vision " in line)
    assert row[7:] == ["220.2", "1.76", "link"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--rate", "inf"], "inf is no finite number above 0"),
        (["--rate", "0"], ": 0 is no finite number above 0"),
        (["--rate", "1", "--link", "-1"], "-1 is no finite number above 0"),
        (["2gpu-frozen", "no-such-recipe", "--rate", "1"], "no-such-recipe: there is no such"),
    ],
)
def test_a_floor_that_cannot_be_told_is_a_message_alone(given: list[str], said: str) -> None:
    code, output = floors_of(*given)
    assert code == 2
    assert said in " ".join(output.split())
    assert "TFLOP/s" not in output


def test_the_shares_are_those_of_the_published_sizes() -> None:
    """ViT-H/16: 32 layers of width 1280, 8192 patches that all attend to each other, two samples a
    microbatch; a projector and the patches' embedding come on top."""
    vision, language = shares(
        make_plan(named("2gpu-trainable").recipe, ["train.micro_batch_size=2"])
    )
    layers = 32 * (2 * 12 * 1280**2 * 8192 + 4 * 1280 * 8192**2)
    assert vision.forward == pytest.approx(2 * layers, rel=0.02)
    assert vision.training == 3 * vision.forward
    assert vision.carried == language.carried == 2 * 2048 * 2688 * 2
    assert language.training == 3 * language.forward
    half = named("2gpu-frozen")
    (frozen, _) = shares(make_plan(half.recipe, half.overrides))
    assert frozen.training < 1.02 * frozen.forward, "the projector alone goes back"
    alone = named("1gpu-both")
    together = shares(make_plan(alone.recipe, alone.overrides))
    assert not any(part.carried for part in together), "one rank has both"
    (_, language) = shares(make_plan("nemotron-vlm-8gpu"))
    assert language.carried == 4096 * 2688 * 2, "all ranks of a sample need its rows"


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


_EVENT = {"cat": "kernel", "name": "product", "ts": 1.0}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"# Read me", "it cannot be read as gzip"),
        (gzip.compress(b"no JSON"), "there is no JSON in it"),
        (gzip.compress(b"\xff"), "there is no JSON in it"),
        (gzip.compress(b"{}"), "its JSON has no list of traceEvents"),
        (gzip.compress(b"[]"), "its JSON has no list of traceEvents"),
        (gzip.compress(b'{"traceEvents": [1]}'), "event 0 is no object"),
        (
            gzip.compress(json.dumps({"traceEvents": [_EVENT]}).encode()),
            "event 0, of a GPU, has no name, ts or dur",
        ),
        (gzip.compress(b"{}" * 1000)[:-12], "it ends too early"),
    ],
    # A gzip holds the second in which it was made.
    ids=range(8),
)
def test_a_file_that_is_no_trace_is_told(tmp_path: Path, content: bytes, said: str) -> None:
    trace = tmp_path / "trace"
    trace.write_bytes(content)
    done = CliRunner().invoke(kernels, [str(trace)])
    assert done.exit_code == 2
    assert done.output.startswith(f"{trace}: {said}")
    assert done.output.endswith(" [benchmark.no-trace]\n") and done.output.count("\n") == 1
