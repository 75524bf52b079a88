"""What a recipe says of each module by itself, seen in whole runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from mimo_core.checkpoint.compatibility import start_notes
from mimo_core.errors import RecipeError
from mimo_core.planning.plan import make_plan
from mimo_core.weights.warm_start import starting_weights

from ..helpers.paths import RECIPES, ROOT
from ..helpers.problems import refused
from ..helpers.runs import Run, start

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

EXAMPLES = ROOT / "examples" / "staged"
SHORT = ("train.iterations=2", "train.lr_warmup_iterations=1", "checkpoint.save_interval=1")
FEW = ("validation.num_samples=16", "validation.num_displayed=0")

# The same sums of the same numbers in another order (see test_runs), in kernels of other shapes.
FP32_ORDER = 5e-6


def weights(run: Run, iteration: int) -> dict[str, torch.Tensor]:
    """All weights of a checkpoint by name, without the optimizer's."""
    reader = dcp.FileSystemReader(str(run.folder / "checkpoints" / f"iter_{iteration:07d}"))
    state = {
        name: torch.empty(facts.size, dtype=facts.properties.dtype)
        for name, facts in reader.read_metadata().state_dict_metadata.items()
        if isinstance(facts, TensorStorageMetadata) and not name.startswith("mimo.")
    }
    dcp.load(state, storage_reader=reader, no_dist=True)
    return state


def part(name: str) -> str:
    if name.startswith("language_model."):
        return "language"
    return "projector" if ".input_projections." in name else "encoder"


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {part(name) for name in before if not torch.equal(before[name], after[name])}


def well(run: Run) -> Run:
    assert run.code == 0, run.screen + run.errors
    return run


@pytest.mark.long
def test_stages_start_from_the_weights_before_and_freeze_what_they_name(tmp_path: Path) -> None:
    """The documented pair: the projector alone, then everything, on another layout; then on,
    without what it started from."""
    first, second = tmp_path / "first", tmp_path / "second"
    one = well(start(EXAMPLES / "1-projector.yaml", *SHORT, *FEW, folder=first))
    assert changed(weights(one, 1), weights(one, 2)) == {"projector"}
    begin = (f"checkpoint.init_from={first}", "modules.vision.grid.tp=2")
    two = well(start(EXAMPLES / "2-everything.yaml", *SHORT, *FEW, *begin, folder=second))
    assert f"with the weights of {first / 'checkpoints' / 'iter_0000002'}" in two.screen
    # The first iteration of a warm-up has learning rate 0.
    assert changed(weights(one, 2), weights(two, 1)) == set()
    assert changed(weights(two, 1), weights(two, 2)) == {"encoder", "projector", "language"}
    first.rename(tmp_path / "moved")
    longer = ("train.iterations=3", *SHORT[1:], *FEW, *begin)
    three = well(start(EXAMPLES / "2-everything.yaml", *longer, folder=second))
    assert "going on after iteration 2" in three.screen
    assert [row["iteration"] for row in three.summary["iterations"]] == [1, 2, 3]


def test_weights_that_are_loaded_need_no_memory_before(tiny: Run, tmp_path: Path) -> None:
    """Built on the meta device and started from a checkpoint, on tensor-parallel ranks, which add
    some gradients up; without a checkpoint it is refused."""
    meta = [
        f"modules.{name}.megatron.init_model_with_meta_device=true"
        for name in ("vision", "language")
    ]
    begin = (f"checkpoint.init_from={tiny.folder}", "modules.language.grid.tp=2")
    begin = (*begin, "train.iterations=2", *FEW)
    plain = well(start("tiny", *begin, folder=tmp_path / "plain"))
    late = well(start("tiny", *begin, *meta, folder=tmp_path / "late"))
    assert late.losses == plain.losses
    assert changed(weights(plain, 2), weights(late, 2)) == set()
    refused = start("tiny", *FEW, *meta, folder=tmp_path / "refused")
    assert refused.code == 2
    assert "init_model_with_meta_device" in refused.errors
    assert refused.errors.count("[recipe.conflict]") == 2


def test_weights_that_fit_and_mean_another_model_are_reported(tiny: Run) -> None:
    """By the plan, and by a run: ``ResumeState.notes``."""
    plan = make_plan(
        str(RECIPES / "tiny.yaml"),
        [
            f"checkpoint.init_from={tiny.folder}",
            "modules.language.options.attention_heads=2",
            "modules.language.freeze=[language]",
        ],
    )
    found = starting_weights(plan, done=None)
    assert found is not None and found.manifest is not None
    assert start_notes(found.manifest, plan) == [
        "checkpoint.init_from: modules.language.options.attention_heads: saved with 4, now 2"
    ]


@pytest.mark.parametrize(
    "changed",
    [
        *("vision.options.hidden_size=32", "vision.options.layers=2"),
        *("vision.options.patch_size=8", "vision.options.class_tokens=2"),
        *("vision.options.projector_hidden_size=64", "vision.options.max_image_size=48"),
        *("language.options.hidden_size=64", 'language.options.pattern="M*-EE"'),
        *('language.options.pattern="M*E-"', "language.options.mamba_state=16"),
        *("language.options.mamba_heads=8", "language.options.experts=8"),
        "language.options.expert_ffn_hidden_size=64",
    ],
)
def test_weights_of_other_shapes_are_refused_without_ranks(tiny: Run, changed: str) -> None:
    """By the plan: every option that changes the shape or the name of a tensor."""
    given = [f"checkpoint.init_from={tiny.folder}", f"modules.{changed}"]
    plan = make_plan(str(RECIPES / "tiny.yaml"), given)
    module, key = changed.partition(".")[0], changed.partition("=")[0]
    with refused("checkpoint.other-model", RecipeError) as caught:
        starting_weights(plan, done=None)
    assert module in caught.value.values["modules"]
    assert any(
        line.startswith(f"modules.{key}: saved with ")
        for line in caught.value.values["differences"]
    )


def test_a_modules_factors_scale_its_learning_rate_and_weight_decay(
    tiny: Run, tmp_path: Path
) -> None:
    """Twice the rate and half the decay for the run, halved and doubled again for both modules.
    (Powers of two lose no bit.)"""
    factors = [
        f"modules.{name}.{key}"
        for name in ("vision", "language")
        for key in ("lr_mult=0.5", "wd_mult=2.0")
    ]
    other = ("train.learning_rate=2e-2", "train.weight_decay=0.005", *FEW)
    run = well(start("tiny", *other, *factors, folder=tmp_path / "run"))
    assert run.losses == tiny.losses
    assert changed(weights(run, 4), weights(tiny, 4)) == set()


def test_modules_of_different_precision_train_together(tiny: Run, tmp_path: Path) -> None:
    run = start("tiny", "modules.language.precision=bf16", *FEW, folder=tmp_path / "run")
    kinds = {(part(name), tensor.dtype) for name, tensor in weights(well(run), 4).items()}
    assert {kind for name, kind in kinds if name != "language"} == {torch.float32}
    assert ("language", torch.bfloat16) in kinds
    # bf16 keeps 8 bits: a rounding of 2**-9 a weight and an activation.
    assert run.losses == pytest.approx(tiny.losses, rel=1e-2)
    assert run.losses != pytest.approx(tiny.losses, rel=1e-6)


def test_recomputed_activations_change_nothing(tiny: Run, tmp_path: Path) -> None:
    """Fields of TransformerConfig: for all modules by the megatron section, or by module."""
    recompute = (
        "megatron.recompute_granularity=full",
        "megatron.recompute_method=uniform",
        "modules.vision.megatron.recompute_num_layers=1",
        "modules.language.megatron.recompute_num_layers=1",
    )
    run = well(start("tiny", *recompute, *FEW, "checkpoint.enabled=false", folder=tmp_path / "run"))
    assert (run.losses, run.norms) == (tiny.losses, tiny.norms)
    assert "none was saved" in run.screen and not (run.folder / "checkpoints").exists()


def same_as_padded(packed: Run, padded: Run) -> None:
    assert packed.losses == pytest.approx(padded.losses, rel=FP32_ORDER)
    assert packed.norms == pytest.approx(padded.norms, rel=FP32_ORDER)
    held_out = packed.summary["evaluation"]
    assert held_out == pytest.approx(padded.summary["evaluation"], rel=FP32_ORDER)
    assert packed.summary["answers"] == padded.summary["answers"]


def test_packed_samples_train_as_padded_ones_do(tiny: Run, tmp_path: Path) -> None:
    """Without padding between them: fewer positions, the same losses."""
    packed = well(start("tiny", "modules.language.packing=true", folder=tmp_path / "run"))
    same_as_padded(packed, tiny)
    # A picture of 4 positions and a caption of 3 to 5 letters, instead of 16.
    positions = [row["positions"] / 16 for row in packed.summary["iterations"]]
    assert all(7 <= each <= 9 for each in positions)
    assert all(row["positions"] == 256 for row in tiny.summary["iterations"])


@pytest.mark.long
def test_packed_samples_over_stages_that_come_first(tmp_path: Path) -> None:
    """The language model on ranks 0 to 3, its sequence and its layers split, experts on its last
    stage alone: trained, evaluated and saved, packed as padded."""
    short = (
        "modules.language.grid={tp: 2, pp: 2, rank_offset: 0}",
        "modules.vision.grid={rank_offset: 4}",
        "train.iterations=2",
    )
    padded = well(start("tiny", *short, folder=tmp_path / "padded"))
    packing = "modules.language.packing=true"
    packed = well(start("tiny", *short, packing, folder=tmp_path / "packed"))
    same_as_padded(packed, padded)
    assert weights(packed, 2).keys() == weights(padded, 2).keys()
