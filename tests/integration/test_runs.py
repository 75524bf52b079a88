"""Whole runs by the command: what a user gets on the screen and in the run folder."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mimo_core.data.sampler import ShuffledSampler
from mimo_core.launch.rank_env import free_port
from mimo_core.planning.flops import FlopsCounter
from mimo_core.planning.plan import make_plan
from mimo_core.planning.sequence_budget import count_positions

from ..helpers.paths import RECIPES
from ..helpers.runs import TIMEOUT, Run, command, start

# fp32 sums over ranks are ordered otherwise than over samples: a few units in the last place of
# the loss (relative 6e-8 each), grown by the steps in between.
FP32_ORDER = 2e-6


def test_a_run_tells_what_it_does(tiny: Run) -> None:
    assert "vision (radio)" in tiny.screen and "language (nemotron)" in tiny.screen
    assert "<vision>" in tiny.screen, "the edge with its placeholder"
    for word in ("training 4/4", "loss", "ms/step", "tokens/s", "left"):
        assert word in tiny.screen
    assert "caption_accuracy" in tiny.screen
    assert "digits/validation/0" in tiny.screen, "held-out samples with the model's answers"
    for place in ("checkpoints/iter_0000004", "summary.json", "loss.png", "tensorboard", "logs"):
        assert place in tiny.screen
    assert tiny.errors == "", "third parties' warnings belong to the logs"
    assert "seq_length" not in tiny.screen and "seq_length" in tiny.log(0), "the argument dump"


def test_the_run_folder_holds_the_run(tiny: Run) -> None:
    summary = tiny.summary
    assert [row["iteration"] for row in summary["iterations"]] == [1, 2, 3, 4]
    for row in summary["iterations"]:
        assert row["loss"] > 0 and row["gradient_norm"] > 0 and row["step_seconds"] > 0
    assert tiny.losses[-1] < tiny.losses[0] - 0.3, "it learns"
    assert 0 <= summary["evaluation"]["caption_accuracy"] <= 1
    assert summary["tokens_per_second"] > 0
    used = {name: summary["plugins"].get(name) for name in ("digits", "nemotron", "radio")}
    assert used == dict.fromkeys(used, "0.1.0")
    assert Path(summary["checkpoint"]).is_dir()
    assert (tiny.folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert list((tiny.folder / "tensorboard").glob("events.out.*"))
    recipe = yaml.safe_load((tiny.folder / "recipe.yaml").read_text())
    assert recipe["train"]["iterations"] == 4 and recipe["placement"] == "non_colocated"


def test_the_work_of_every_step_is_that_of_its_samples(tiny: Run) -> None:
    """FLOPs by module of the very samples of each global batch, from metadata."""
    plan = make_plan(str(tiny.folder / "recipe.yaml"))
    data, train = plan.graph.data, plan.recipe.train
    dataset = plan.host.call_hook("build_dataset", data.plugin, data=data, split="train")
    order = ShuffledSampler(len(dataset), train.seed)
    workload = FlopsCounter(plan.graph, plan.host)
    for step, row in enumerate(tiny.summary["iterations"]):
        places = range(step * train.global_batch_size, (step + 1) * train.global_batch_size)
        samples = [dataset[order[place]] for place in places]
        lengths = [count_positions(plan.graph, sample).total for sample in samples]
        work = workload.read(workload.numbers(samples, lengths))
        assert (row["flops"], row["media"]) == (work.flops, {"vision": 16})
    language = {row["flops"]["language"] for row in tiny.summary["iterations"]}
    assert len(language) > 1, "texts of several lengths, whose padding is not counted"


def test_speed_and_memory_are_told_by_module(tiny: Run) -> None:
    summary = tiny.summary
    steady = summary["iterations"][1:]
    seconds = summary["median_step_seconds"]
    total = 0.0
    for name, told in summary["modules"].items():
        flops = sum(row["flops"][name] for row in steady) / len(steady)
        assert told["flops_per_step"] == pytest.approx(flops)
        assert told["flops_per_second_per_rank"] == pytest.approx(flops / seconds)
        assert told["ranks"] == 1 and told["mfu"] is None, "what this CPU can do is not known"
        total += flops
    assert summary["modules"]["vision"]["media_per_second"] == pytest.approx(16 / seconds)
    assert summary["model"]["flops_per_step"] == pytest.approx(total)
    assert summary["model"]["flops_per_second_per_rank"] == pytest.approx(total / seconds / 2)
    for rank in summary["ranks"]:
        assert rank["peak_resident_bytes"] > 50e6
        held, planned = rank["held_bytes"], rank["planned_bytes"]
        assert held["optimizer"] == planned["optimizer"], "Adam's two moments in fp32"
        for what in ("weights", "gradients"):
            # Megatron's buckets are padded: a few numbers a tensor (test_memory_estimate.py).
            assert planned[what] <= held[what] < 1.1 * planned[what]
    shown = " ".join(tiny.screen.split())
    assert "module ranks work on a rank MFU reads" in shown
    assert "ranks module weights gradients optimizer together process" in shown


def test_tensorboard_has_the_losses_of_the_language_model(tiny: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tiny.folder / "tensorboard")).Reload()
    values = [event.value for event in events.Scalars("lm loss")]
    assert values == pytest.approx(tiny.losses, rel=1e-6)  # TensorBoard keeps float32


def test_tensorboard_has_the_learning_rate_of_the_next_iteration(tiny: Run) -> None:
    """Iteration i of N is at (i - 1) / N of the decay, which ends at the smallest rate."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tiny.folder / "tensorboard")).Reload()
    rates = {event.step: event.value for event in events.Scalars("learning-rate")}
    due = {step: 1e-2 * (1 + math.cos(math.pi * step / 4)) / 2 for step in (1, 2, 3, 4)}
    assert rates == pytest.approx(due, rel=2**-23, abs=1e-9)  # events hold float32


def test_pictures_are_decoded_on_encoder_ranks_only(tiny: Run) -> None:
    decoded = {rank["module"]: rank["decoded"] for rank in tiny.summary["ranks"]}
    trained, looked_at = 4 * 16, 2 * 16  # 19 held-out samples fill two batches of 16
    assert decoded == {"vision": trained + looked_at, "language": 0}


def test_data_parallel_ranks_equal_one(tiny: Run, tmp_path: Path) -> None:
    """The same samples over two language ranks: the same losses, norms and evaluation."""
    wide = ("modules.language.grid.dp=2", "train.micro_batch_size=2")
    run = start("tiny", *wide, folder=tmp_path / "run")
    assert run.code == 0, run.screen + run.errors
    assert run.losses == pytest.approx(tiny.losses, rel=FP32_ORDER)
    assert run.norms == pytest.approx(tiny.norms, rel=FP32_ORDER)
    for what in ("flops", "media"):
        counted = [[row[what] for row in r.summary["iterations"]] for r in (run, tiny)]
        assert counted[0] == counted[1], what
    held_out = run.summary["evaluation"]
    assert held_out["loss"] == pytest.approx(tiny.summary["evaluation"]["loss"], rel=FP32_ORDER)


def test_a_stopped_run_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    """With dropout, random augmentation and loader workers, its modules on each other's ranks; and
    the same run twice is the same."""
    random = (
        "modules.vision.options.dropout=0.2",
        "modules.vision.options.position_crop=true",
        "modules.language.options.dropout=0.2",
        "data.num_workers=2",
        "validation.interval=2",
    )
    whole = start("tiny", *random, folder=tmp_path / "whole")
    assert whole.code == 0, whole.screen + whole.errors
    begun = start("tiny", *random, "megatron.exit_interval=2", folder=tmp_path / "parts")
    assert begun.code == 0, begun.screen + begun.errors
    assert begun.losses == whole.losses[:2], "the same run twice: the same losses"
    swapped = ("modules.vision.grid.rank_offset=1", "modules.language.grid.rank_offset=0")
    resumed = start("tiny", *random, *swapped, folder=tmp_path / "parts")
    assert resumed.code == 0, resumed.screen + resumed.errors
    assert "going on after iteration 2" in resumed.screen
    assert (resumed.losses, resumed.norms) == (whole.losses, whole.norms)
    assert resumed.summary["evaluations"] == whole.summary["evaluations"]


def test_torchrun_starts_the_ranks_in_any_order(tiny: Run, tmp_path: Path) -> None:
    """Under torchrun the command is one rank and starts none. The language model comes first here:
    its losses, its figures and TensorBoard come out as they do where it is last."""
    recipe = yaml.safe_load((RECIPES / "tiny.yaml").read_text())
    recipe["modules"] = dict(reversed(recipe["modules"].items()))
    path = tmp_path / "reversed.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    torchrun += ["--master-addr=127.0.0.1", f"--master-port={free_port()}", "-m"]
    done = subprocess.run(
        torchrun + command(path, folder=tmp_path / "run")[2:],
        env={**os.environ, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "language (nemotron)" in done.stdout and "training 4/4" in done.stdout
    run = Run(folder=tmp_path / "run", code=0, screen=done.stdout, errors=done.stderr)
    assert run.losses == tiny.losses, "nothing of a module depends on its place"
    assert (run.folder / "recipe.yaml").exists()
    assert list((run.folder / "tensorboard").glob("events.out.*"))
