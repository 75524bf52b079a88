"""Samples, steps and splits without a learned token: refused or left out, reported, never NaN."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mimo_core import Sample, Text, hookimpl
from mimo_core.checkpoint.directory import checkpoint_path
from mimo_core.checkpoint.reader import Checkpoint
from mimo_core.contract import LANGUAGE
from mimo_core.data.sequence_builder import SequenceBuilder
from mimo_core.errors import RecipeError, SampleError
from mimo_core.planning.plan import make_plan
from mimo_core.planning.sequence_budget import label_notes
from mimo_core.recipe import load_text
from mimo_core.reporting.summary import NO_LABELS
from mimo_core.verify import Judge
from mimo_core.verify.compare import compare_iterations

from ..helpers.fake_plugins import RECIPE, host, pairs
from ..helpers.paths import RECIPES
from ..helpers.problems import refused
from ..helpers.runs import Run, installed, start
from .test_parity import LAYOUTS, agreed, planned

CUT = ("data.overlength=truncate", "data.wrappers.unlearned={}")
STAGES = (
    *LAYOUTS["encoder pp 2 and dp 2, language pp 2"],
    "modules.language.packing=true",
    "modules.vision.freeze=[encoder]",
    "train.precision=bf16",
    "train.weight_decay=0.1",
    "checkpoint.save_interval=1",
    "validation.num_samples=4",
    "validation.interval=2",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("site")
    for name in ("uneven", "unlearned"):
        installed(name, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")]))
        yield path


@pytest.fixture(scope="module")
def judge(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """One rank; its second step has nothing to learn, its third half of its samples."""
    recipe = planned(*CUT, *LAYOUTS["everything on 8 ranks"])
    return Judge.run(recipe, tmp_path_factory.mktemp("unlearned"))


@pytest.fixture(scope="module")
def stages(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Pipelines of 2 stages, microbatches ahead, packed, partly frozen, bf16."""
    recipe = RECIPES / "parity.yaml"
    run = start(recipe, *CUT, *STAGES, folder=tmp_path_factory.mktemp("stages") / "run", site=site)
    assert run.code == 0, run.screen + run.errors
    return run


def tensors(folder: Path, step: int) -> dict[str, torch.Tensor]:
    saved = Checkpoint(checkpoint_path(folder / "checkpoints", step))
    return {key: saved.read(key, ()) for key in saved.keys}


def assert_no_step(folder: Path) -> None:
    """Every tensor of iteration 2 (weights, biases of experts, moments) is that of iteration 1."""
    one, two, three = (tensors(folder, step) for step in (1, 2, 3))
    assert one.keys() == two.keys()
    assert [key for key in one if not torch.equal(one[key], two[key])] == []
    assert any(not torch.equal(two[key], three[key]) for key in two)


def assert_reported(iterations: list[dict[str, Any]]) -> None:
    first, second, third = iterations
    assert (second["loss"], second["skipped"]) == (None, NO_LABELS)
    assert [row["samples_without_labels"] for row in iterations] == [0, 16, 8]
    assert all(row["loss"] > 0 and row["skipped"] is None for row in (first, third))


def test_a_step_without_a_learned_token_changes_nothing(judge: Judge) -> None:
    folder = judge.base / "judge"
    assert_no_step(folder)
    assert_reported(Run(folder=folder, code=0, screen="", errors="").summary["iterations"])


@pytest.mark.long
def test_all_layouts_decide_alike(judge: Judge) -> None:
    """8 ranks with gradients reduced during backward, against one rank."""
    agreed(judge.compare(planned(*CUT, *LAYOUTS["everything on 8 ranks"]), "everything"))
    assert_no_step(judge.base / "everything")


def test_stages_and_bf16_decide_alike(stages: Run) -> None:
    assert_no_step(stages.folder)
    assert_reported(stages.summary["iterations"])
    assert f"iteration 2 was skipped: {NO_LABELS}" in stages.screen
    assert "samples without a learned token, left out of the loss: 24" in stages.screen
    assert "nan" not in stages.screen


def test_no_number_of_a_run_is_a_mean_over_nothing(stages: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(stages.folder / "tensorboard"))
    events.Reload()
    scalars = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    assert all(math.isfinite(event.value) for tag in scalars for event in scalars[tag])
    assert [event.step for event in scalars["lm loss"]] == [1, 3]
    assert "nan" not in (stages.folder / "summary.json").read_text().lower()
    assert all(math.isfinite(row["loss"]) for row in stages.summary["evaluations"])


def test_a_step_that_both_runs_leave_out_is_no_difference() -> None:
    row = {"iteration": 1, "loss": None, "gradient_norms": {LANGUAGE: 0.0}}
    (norm,) = compare_iterations([row], [row])
    assert norm.quantity == "gradient norm" and norm.equal
    broken = row | {"gradient_norms": {LANGUAGE: None}}
    assert not any(one.equal for one in compare_iterations([broken], [broken]))


# Samples
def sample(prompt: int, *, loss: bool = True) -> Sample:
    parts = (Text(text="?" * prompt), Text(text="yes", is_target=loss))
    return Sample(key=f"pairs/{prompt}", content=parts)


TEXT_ONLY = RECIPE[: RECIPE.index("  vision:")] + RECIPE[RECIPE.index("  language:") :]


def plan_of(*samples: Sample, length: int = 16, overlength: str = "truncate") -> Any:
    @hookimpl
    def preview_samples(data):
        return samples

    overrides = [f"train.sequence_length={length}", f"data.overlength={overlength}"]
    loaded = load_text(TEXT_ONLY, "recipe.yaml", overrides)
    return make_plan(loaded.recipe, host=host(pairs=pairs(preview_samples=preview_samples)))


@pytest.mark.parametrize("prompt", range(12, 20))
def test_a_sample_has_labels_where_its_mask_has(prompt: int) -> None:
    """The first learned token is the label of the position before it: one more than fits counts."""
    graph = plan_of(sample(1)).graph
    kept = SequenceBuilder(graph=graph, length=16, cut=True, broken="skip")
    refusing = SequenceBuilder(graph=graph, length=16, cut=True, broken="stop")
    learned = int(kept.build([sample(prompt)], [True]).loss_mask.sum())
    (counts, _) = plan_of(sample(prompt), sample(1)).preview
    assert counts.kept == learned == max(min(4, 17 - prompt), 0)
    if learned:
        refusing.build([sample(prompt)], [True])
        return
    with refused("sample.no-labels", SampleError, sample=f"pairs/{prompt}", most=16):
        refusing.build([sample(prompt)], [True])


@pytest.mark.parametrize(
    ("broken", "told"),
    [("stop", "learned; mark one, or leave such samples out (data.options.broken: skip)"),
     (None, "no text after its first token is marked as learned; mark one")],
)  # fmt: skip
def test_a_sample_that_nothing_is_learned_of_is_refused(broken: Any, told: str) -> None:
    builder = SequenceBuilder(graph=plan_of(sample(1)).graph, length=16, broken=broken)
    with refused("sample.no-labels", SampleError) as caught:
        builder.build([sample(4, loss=False)], [True])
    assert caught.value.text.endswith(told)


def test_the_plan_counts_labels_after_cutting() -> None:
    plan = plan_of(sample(1), sample(14), sample(200))
    assert [(counts.learned, counts.kept) for counts in plan.preview] == [(4, 4), (4, 3), (4, 0)]
    (without,) = label_notes(plan.preview)
    assert "1 of 3 samples that the plan looked at have no learned token, pairs/200" in without
    few = label_notes(plan_of(sample(15), sample(15), sample(16)).preview)
    assert [line[:50] for line in few] == ["data.overlength = truncate leaves few labels: 5 of"]
    assert label_notes(plan_of(sample(1)).preview) == []


@pytest.mark.parametrize(
    ("shown", "told"),
    [
        ((sample(200), sample(17)), "none of the 2 samples that plugin 'pairs' shows has a learned "
         "token in its first 16 positions"),
        ((sample(1, loss=False),), "has a learned token; mark the text to be learned"),
    ],
)  # fmt: skip
def test_the_plan_refuses_a_dataset_without_labels(shown: tuple[Sample, ...], told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        plan_of(*shown)
    assert "train.sequence_length" in str(caught.value)
    assert told in str(caught.value)
