"""What a person sees of a run, and what the run folder says of it."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import attrs
import numpy as np
import pytest
from rich.text import Text

from mimo_core.planning.plan import make_plan
from mimo_core.recipe import load_text
from mimo_core.reporting.console import Answer, Screen
from mimo_core.reporting.plots import draw_loss, half_blocks
from mimo_core.reporting.run_directory import RunDirectory
from mimo_core.reporting.summary import Iteration, Reporter, not_finite
from mimo_core.reporting.tables import held_table, work_table
from mimo_core.reporting.throughput import Figures

from ..helpers.fake_plugins import RECIPE, host


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine that runs the tests says of colours."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def screen(iterations: int = 100, every: int = 10) -> tuple[Screen, io.StringIO]:
    stream = io.StringIO()
    return Screen(stream, iterations, every), stream


def row(iteration: int, loss: float | None = 2.0, seconds: float = 0.5) -> Iteration:
    return Iteration(
        iteration=iteration,
        loss=loss,
        gradient_norm=1.5,
        gradient_norms={"vision": None if loss is None else 0.9, "language": 1.2},
        step_seconds=seconds,
        positions=1000,
    )


# The screen
def test_without_a_terminal_a_line_tells_loss_time_speed_and_what_is_left():
    shown, stream = screen()
    with shown:
        shown.step(10, 2.34567, 0.5, 1000)
    assert stream.getvalue() == (
        "  training 10/100  loss 2.3457  500 ms/step  2,000 tokens/s  0:45 left\n"
    )


def test_without_a_terminal_lines_come_at_the_first_every_nth_and_last_iteration():
    shown, stream = screen(iterations=25)
    for iteration in range(1, 26):
        shown.step(iteration, 1.0, 0.1, 10)
    told = [line.split()[1] for line in stream.getvalue().splitlines()]
    assert told == ["1/25", "10/25", "20/25", "25/25"]
    assert stream.getvalue().endswith("0:00 left\n")


def test_a_slow_first_step_and_a_hiccup_do_not_turn_the_time_left_over():
    shown, stream = screen(every=1)
    for iteration, seconds in enumerate([60.0, 1.0, 11.0], 1):
        shown.step(iteration, 1.0, seconds, 1000)
    second, third = stream.getvalue().splitlines()[1:]
    assert "1000 ms/step  1,000 tokens/s  1:38 left" in second
    assert "11000 ms/step  500 tokens/s  3:14 left" in third


def test_an_evaluation_tells_loss_as_a_number_and_the_rest_as_shares():
    shown, stream = screen()
    shown.evaluation(20, {"loss": 0.12345, "caption_accuracy": 0.956})
    assert stream.getvalue() == (
        "  held out after 20 iterations: loss 0.1235, caption_accuracy 95.6%\n"
    )


def test_answers_show_what_was_said_as_it_was_said_and_the_truth_of_wrong_ones():
    shown, stream = screen()
    shown.answers(
        [
            Answer(key="digits/1", truth="seven", said="seven", picture=("[red]▀[/]",)),
            Answer(key="digits/2", truth="two", said="[bold]"),
            Answer(key="digits/3", truth="one", said=""),
        ]
    )
    text = stream.getvalue()
    for part in ("✓ seven", "digits/1", "✗ [bold]", "is two", "✗ (nothing)", "is one"):
        assert part in text
    assert "▀" not in text
    assert "is seven" not in text


def test_places_are_told_on_one_line_each_however_long():
    shown, stream = screen()
    long = Path("/") / ("x" * 150) / "summary.json"
    shown.end({"checkpoint": "none was saved", "summary": long})
    assert stream.getvalue().splitlines() == [
        "  checkpoint  none was saved",
        f"  summary     {long}",
    ]


def test_a_run_that_stops_early_says_so_and_how_to_go_on(tmp_path):
    run, stream = reporter(tmp_path, iterations=5)
    run.begin(0)
    run.step(row(1, seconds=0.01))
    assert stream.getvalue().endswith("0:01 left\n"), "some time is"
    run.step(row(3, seconds=0.01))
    assert run.end([], {})["finished"] is False
    shown, told = screen(iterations=5)
    shown.stopped(run.reached, None, "mimo-pretrain x/recipe.yaml --run-dir x")
    shown.stopped(run.reached, "SIGTERM", None)
    assert told.getvalue().splitlines() == [
        "  stopped after iteration 3 of 5: not finished; go on:",
        "    mimo-pretrain x/recipe.yaml --run-dir x",
        "  stopped by SIGTERM after iteration 3 of 5: not finished, and nothing was saved "
        "(checkpoint.enabled is false)",
    ]
    run.step(row(5))
    assert run.end([], {})["finished"] is True


def test_a_run_that_had_nothing_left_to_do_is_finished(tmp_path):
    run, _ = reporter(tmp_path, iterations=5)
    run.begin(5)
    assert run.end([], {})["finished"] is True


# The summary
def reporter(folder: Path, iterations: int = 100) -> tuple[Reporter, io.StringIO]:
    shown, stream = screen(iterations)
    facts = {"platform": "cpu", "plugins": {"eye": "0"}}
    run = RunDirectory(folder)
    return Reporter(folder=run, screen=shown, facts=facts, started=time.time()), stream


def test_the_summary_holds_every_iteration_evaluation_and_fact(tmp_path):
    run, stream = reporter(tmp_path)
    run.begin(0)
    # The first is slow, as the first one is.
    for iteration, seconds in enumerate([9.0, 1.0, 0.25, 0.5], 1):
        run.step(row(iteration, 4.0 / iteration, seconds))
    run.evaluation(2, {"loss": 3.0, "caption_accuracy": 0.5})
    run.evaluation(4, {"loss": 1.5, "caption_accuracy": 0.75})
    said = Answer(key="digits/1", truth="two", said="ten")
    summary = run.end([said], {"checkpoint": "runs/x/iter_0000004", "ranks": []})
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert summary["iterations"][1] == {
        "iteration": 2,
        "loss": 2.0,
        "gradient_norm": 1.5,
        "gradient_norms": {"vision": 0.9, "language": 1.2},
        "step_seconds": 1.0,
        "elapsed_seconds": None,
        "positions": 1000,
        "flops": {},
        "media": {},
        "skipped": None,
        "samples_without_labels": 0,
    }
    assert [one["iteration"] for one in summary["iterations"]] == [1, 2, 3, 4]
    assert summary["evaluation"] == {"loss": 1.5, "caption_accuracy": 0.75}
    assert [one["iteration"] for one in summary["evaluations"]] == [2, 4]
    assert (summary["platform"], summary["plugins"]) == ("cpu", {"eye": "0"})
    assert (summary["median_step_seconds"], summary["tokens_per_second"]) == (0.5, 2000.0)
    assert 0 <= summary["seconds_to_first_iteration"] < 60
    assert summary["checkpoint"] == "runs/x/iter_0000004"
    assert summary["answers"] == [{"key": "digits/1", "truth": "two", "said": "ten"}]
    assert (tmp_path / "loss.png").read_bytes()[:4] == b"\x89PNG"
    assert "✗ ten" in stream.getvalue()


def test_the_speed_is_that_of_this_part_of_the_run(tmp_path):
    """In the grids that it has now; its first iteration warms up."""
    before, _ = reporter(tmp_path)
    before.begin(0)
    for iteration in (1, 2, 3):
        before.step(row(iteration))
    before.end([], {})
    run, _ = reporter(tmp_path)
    run.begin(2)
    assert [*run.steady] == []
    for iteration in (3, 4, 5):
        run.step(row(iteration))
        told = [one["iteration"] for one in run.steady]
        assert told == {3: [3], 4: [4], 5: [4, 5]}[iteration]


def test_tables_of_large_runs_fit_a_line_of_80_columns():
    """Work and memory of 72 ranks, of which the fullest that are planned alike is shown."""
    grids = ("modules.vision.grid={dp: 8}", "modules.language.grid={dp: 8, pp: 2, tp: 4}")
    plan = make_plan(load_text(RECIPE, "recipe.yaml", grids).recipe, host=host())
    one = Figures(
        ranks=64,
        flops_per_step=1.2345e18,
        flops_per_second_per_rank=412.3e12,
        mfu=0.4167,
        tokens_per_second=12_345_678.0,
    )
    unknown = {"flops_per_step": None, "mfu": None, "tokens_per_second": None}
    vision = attrs.evolve(one, **unknown, media_per_second=123_456.0)
    held = {"weights": 60 << 30, "gradients": 120 << 30, "optimizer": 15 << 30}
    ranks = [
        {
            "held_bytes": held | {"optimizer": (15 << 30) + rank},
            "peak_memory_bytes": (139 << 30) - rank,
        }
        for rank in range(72)
    ]
    shown, stream = screen()
    shown.tables([work_table(plan, {"vision": vision, "language": one}, one)])
    shown.tables([held_table(plan, ranks)])
    alone = ("placement=colocated", "modules.vision.grid={}", "modules.language.grid={}")
    colocated = make_plan(load_text(RECIPE, "recipe.yaml", alone).recipe, host=host())
    shown.tables([held_table(colocated, ranks)])
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    assert "…" not in stream.getvalue() and max(map(len, lines)) <= 80
    said = [" ".join(line.split()) for line in lines]
    assert "language 8-71 1234.5 PFLOP 412.3 TFLOP/s 41.7% 12,345,678 tokens/s" in said
    assert "vision 0-7 - 412.3 TFLOP/s - 123,456 image/s" in said
    assert sum(line.startswith("8-39 language held 60.0 GiB 120.0 GiB") for line in said) == 1
    assert sum(line.endswith("195.0 GiB 139.0 GiB") for line in said) == 4


def test_the_summary_is_there_after_each_evaluation(tmp_path):
    """A run that is killed later leaves what it had reached."""
    run, _ = reporter(tmp_path)
    run.step(row(1))
    assert not (tmp_path / "summary.json").exists()
    run.evaluation(1, {"loss": 2.0})
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert len(summary["iterations"]) == 1
    assert summary["evaluation"] == {"loss": 2.0}


def test_a_resumed_run_keeps_what_came_before_its_checkpoint_and_drops_the_rest(tmp_path):
    first, _ = reporter(tmp_path)
    for iteration in range(1, 6):
        first.step(row(iteration, loss=10.0))
    first.evaluation(3, {"loss": 10.0})
    first.evaluation(5, {"loss": 10.0})
    second, _ = reporter(tmp_path)
    second.begin(3)
    for iteration in (4, 5):
        second.step(row(iteration, loss=20.0))
    second.evaluation(5, {"loss": 20.0})
    summary = json.loads((tmp_path / "summary.json").read_text())
    told = [(one["iteration"], one["loss"]) for one in summary["iterations"]]
    assert told == [(1, 10.0), (2, 10.0), (3, 10.0), (4, 20.0), (5, 20.0)]
    told = [(one["iteration"], one["loss"]) for one in summary["evaluations"]]
    assert told == [(3, 10.0), (5, 20.0)]


def test_an_evaluation_without_a_finite_loss_is_null_and_no_obstacle_when_the_run_goes_on(tmp_path):
    first, _ = reporter(tmp_path)
    first.step(row(1))
    first.evaluation(1, {"loss": float("nan"), "caption_accuracy": 0.5})
    second, _ = reporter(tmp_path)
    second.begin(1)
    second.step(row(2))
    second.evaluation(2, {"loss": float("inf")})
    summary = second.end([], {})
    assert [one["loss"] for one in summary["evaluations"]] == [None, None]
    assert summary["evaluation"] == {"loss": None}
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert (tmp_path / "loss.png").exists()


def test_a_skipped_step_is_in_the_summary_and_not_in_the_curve(tmp_path):
    run, stream = reporter(tmp_path)
    cause = not_finite({"vision": None, "language": 1.0})
    run.step(attrs.evolve(row(1, loss=None), skipped=cause))
    summary = run.end([], {})
    assert summary["iterations"][0]["loss"] is None
    assert summary["iterations"][0]["skipped"] == "the gradient of vision is not finite"
    assert stream.getvalue() == "  iteration 1 was skipped: the gradient of vision is not finite\n"
    assert not (tmp_path / "loss.png").exists()


def test_samples_without_labels_are_reported_once_and_added_up(tmp_path):
    run, stream = reporter(tmp_path)
    run.step(attrs.evolve(row(1), samples_without_labels=1))
    run.step(attrs.evolve(row(2), samples_without_labels=3))
    run.end([], {})
    lines = [line.strip() for line in stream.getvalue().splitlines() if "learned token" in line]
    assert lines == [
        "iteration 1 is the first with samples without a learned token: 1 sample (named in the "
        "log), left out of the loss",
        "samples without a learned token, left out of the loss: 4",
    ]


@pytest.mark.parametrize("iterations", [1, 3, 12])
def test_an_encoder_without_media_is_noted_once(tmp_path, iterations):
    told, stream = reporter(tmp_path)
    told.note("a note")
    for number in range(iterations):
        told.step(attrs.evolve(row(number + 1), media={"vision": 0, "hearing": int(number == 2)}))
    notes = told.end([], {})["notes"]
    unfed = ["vision"] if iterations >= 3 else ["vision", "hearing"]
    assert [note.split("encoder ")[-1].split(":")[0] for note in notes] == [
        "a note",
        *map(repr, unfed),
    ]
    assert f"of the first {min(iterations, 10)} iteration" in notes[1]
    assert stream.getvalue().count("has a medium for encoder 'vision'") == 1
    again, _ = reporter(tmp_path)
    assert again.end([], {})["notes"] == notes


def test_a_run_without_a_step_has_a_summary(tmp_path):
    run, _ = reporter(tmp_path)
    summary = run.end([], {"checkpoint": None})
    assert (summary["iterations"], summary["tokens_per_second"]) == ([], None)


# Pictures
@pytest.mark.parametrize(
    ("height", "width", "lines", "cells"),
    [(8, 8, 4, 8), (3, 2, 2, 2), (40, 100, 4, 20), (1, 1, 1, 1)],
)
def test_a_picture_takes_two_pixels_a_character_and_twenty_a_line(height, width, lines, cells):
    drawn = half_blocks(np.zeros((height, width, 3), dtype=np.uint8))
    shown = [Text.from_markup(line) for line in drawn]
    assert len(shown) == lines
    assert [text.cell_len for text in shown] == [cells] * lines


def test_a_character_has_the_colour_of_the_pixel_above_on_the_one_below():
    image = np.array([[[255, 0, 1]], [[2, 3, 200]]], dtype=np.uint8)
    assert half_blocks(image) == ["[rgb(255,0,1) on rgb(2,3,200)]▀[/]"]
    # The last row of an odd number is its own lower half.
    assert half_blocks(image[:1]) == ["[rgb(255,0,1) on rgb(255,0,1)]▀[/]"]


def test_the_loss_curve_is_a_picture_of_the_losses(tmp_path):
    pictures = []
    for number, held_out in enumerate(([], [(2, 1.5)])):
        path = tmp_path / f"{number}.png"
        draw_loss(path, [1, 2, 3], [3.0, 2.0, 1.0], held_out)
        pictures.append(path.read_bytes())
    assert all(picture.startswith(b"\x89PNG\r\n") for picture in pictures)
    assert pictures[0] != pictures[1]
