"""A run goes on in another layout, or in another precision, as if it had always been there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from mimo_core.checkpoint.manifest import read_manifest

from ..helpers.runs import Run, start

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled"),
]

FEW = ("validation.num_samples=4", "validation.num_displayed=0")
# Two encoder ranks and four of the language model; its experts are on the second stage alone.
WIDE = (
    *("modules.vision.grid.dp=2", "modules.language.grid.tp=2", "modules.language.grid.pp=2"),
    "modules.language.grid.ep=2",
)

# fp32 sums in another order over ranks: a few units in the last place (6e-8 each) of the largest
# terms, grown by two steps of Adam, which divides small differences by small moments.
FP32_ORDER = 5e-6


def well(run: Run) -> Run:
    assert run.code == 0, run.screen + run.errors
    return run


def checkpoint(run: Run, iteration: int) -> Path:
    return run.folder / "checkpoints" / f"iter_{iteration:07d}"


def tensors(run: Run, iteration: int) -> dict[str, torch.Tensor]:
    """All of a checkpoint by key, the optimizer's too."""
    path = checkpoint(run, iteration)
    state = {
        key: torch.empty(facts["shape"], dtype=getattr(torch, facts["dtype"]))
        for key, facts in read_manifest(path).tensors.items()
    }
    dcp.load(state, checkpoint_id=path, no_dist=True)
    return state


def step_of(run: Run, iteration: int, module: str) -> float:
    """The step of Adam that is saved."""
    objects = read_manifest(checkpoint(run, iteration)).objects
    (key,) = (each for each in objects if each.startswith(f"mimo.{module}."))
    state = {key: None}
    dcp.load(state, checkpoint_id=checkpoint(run, iteration), no_dist=True)
    (step,) = state[key]
    return step


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that was not interrupted: one rank a module."""
    return well(start("tiny", *FEW, folder=tmp_path_factory.mktemp("whole") / "run"))


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same on two ranks, then on six, then on one."""
    folder = tmp_path_factory.mktemp("moved") / "run"
    well(start("tiny", *FEW, "megatron.exit_interval=2", folder=folder))
    wide = well(start("tiny", *FEW, *WIDE, "megatron.exit_interval=3", folder=folder))
    assert ("language goes on in another grid (tp 1 -> 2, pp 1 -> 2, ep 1 -> 2)") in " ".join(
        wide.screen.split()
    )
    assert len(read_manifest(checkpoint(wide, 3)).random_states) == 6
    return well(start("tiny", *FEW, "placement=colocated", folder=folder))


def test_losses_and_norms_are_those_of_the_run_that_was_not_interrupted(
    whole: Run, moved: Run
) -> None:
    assert moved.losses == pytest.approx(whole.losses, rel=FP32_ORDER)
    assert moved.norms == pytest.approx(whole.norms, rel=FP32_ORDER)


def test_weights_moments_and_steps_are_too(whole: Run, moved: Run) -> None:
    """Of every tensor that is saved, by the same keys, whoever saved them."""
    due, found = tensors(whole, 4), tensors(moved, 4)
    assert due.keys() == found.keys()
    assert any(".exp_avg_sq." in key for key in due)
    for key, tensor in due.items():
        difference = float((found[key] - tensor).abs().max())
        assert difference <= FP32_ORDER * float(tensor.abs().max()), key
    saved, again = (read_manifest(checkpoint(run, 4)) for run in (whole, moved))
    assert list(saved.objects) == list(again.objects)
    assert (saved.consumed_samples, again.consumed_samples) == (64, 64)
    for module in ("vision", "language"):
        assert step_of(moved, 4, module) == step_of(whole, 4, module) == 4


def test_the_layout_that_really_was_is_written_down(moved: Run) -> None:
    layout = read_manifest(checkpoint(moved, 3)).layout
    assert (layout["kind"], layout["world_size"]) == ("non_colocated", 6)
    language = layout["modules"]["language"]
    assert language["rank_offset"] == 2 and language["grid"] == {
        "tp": 2,
        "cp": 1,
        "pp": 2,
        "dp": 1,
        "ep": 2,
        "etp": 1,
    }
    layout = read_manifest(checkpoint(moved, 4)).layout
    assert (layout["kind"], layout["world_size"]) == ("colocated", 1)


def test_precisions_read_each_other_and_a_frozen_module_stays(tmp_path: Path) -> None:
    """The fp32 run goes on with the main weights that the bf16 run kept, not with its rounded
    ones: three steps of 1e-5 are lost in bf16 (2**-9 of a weight), and one more step of Adam
    changes no weight by more than 1.007 of it (Cauchy-Schwarz over its first four gradients)."""
    rate = 1e-5
    small = (
        *FEW,
        f"train.learning_rate={rate}",
        "train.lr_decay_style=constant",
        "train.weight_decay=0",
        "modules.vision.freeze=[encoder, projector]",
    )
    folder = tmp_path / "run"
    short = "megatron.exit_interval=3"
    before = well(start("tiny", *small, short, "train.precision=bf16", folder=folder))
    after = well(start("tiny", *small, folder=folder))
    saved, now = tensors(before, 3), tensors(after, 4)
    main = "mimo.language.optimizer.state.param."
    rounded = 0.0
    for key in (key for key in now if key.startswith(main)):
        moved_by = (now[key] - saved[key]).abs().max()
        assert moved_by <= 1.007 * rate + 2e-7 * now[key].abs().max(), key
        weights = key.removeprefix(main)
        assert now[weights].dtype is torch.float32 and torch.equal(now[weights], now[key])
        rounded = max(rounded, float((saved[weights].float() - saved[key]).abs().max()))
    assert rounded > 2 * rate, "the run in bf16 kept more than its weights show"
    frozen = [key for key in now if key.startswith("modality_submodules.vision.")]
    assert frozen and not any(key.startswith("mimo.vision.") for key in now)
    for key in frozen:
        assert saved[key].dtype is torch.bfloat16 and torch.equal(saved[key].float(), now[key])


def test_a_checkpoint_that_does_not_fit_is_told_in_full(whole: Run, tmp_path: Path) -> None:
    """Of each module, by all ranks at once: what is missing, left over and of other shape, with the
    values of the recipe that differ; and before anything is loaded."""
    other = (
        f"checkpoint.init_from={whole.folder}",
        "modules.vision.options.layers=2",
        "modules.language.options.pattern='M*--'",
        "modules.language.options.mamba_state=16",
    )
    run = start("tiny", *FEW, *other, folder=tmp_path / "run")
    assert run.code == 1
    said = run.errors
    assert f"{checkpoint(whole, 4)} does not fit the model:" in said
    lines = {
        line.strip().partition(" modality")[0].partition(" language_model")[0]
        for line in said.splitlines()
    }
    assert "vision: other shape:" in lines, "a second layer"
    assert "language: the checkpoint lacks" in lines, "the other layer"
    assert "language: the model has not" in lines, "the experts"
    assert "language: other shape:" in lines
    assert "modules.language.options.mamba_state: saved with 8, now 16" in said
    assert "modules.vision.options.layers: saved with 1, now 2" in said
    assert "more" in said and "its log: " in said
    assert not list((tmp_path / "run").glob("checkpoints/iter_*"))
    assert json.loads((whole.folder / "summary.json").read_text())["finished"]
