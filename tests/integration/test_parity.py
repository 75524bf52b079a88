"""Layouts against the judge: the same model, weights and samples in one process.

The samples are those of ``plugins/uneven_plugin.py``: none to three pictures of different sizes,
microbatches of text alone, pictures on the first or the last data-parallel ranks only, a step in
which one encoder sees nothing. Gradients are clipped in every step.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs
import pytest

from mimo_core.contract import LANGUAGE
from mimo_core.planning.plan import make_plan
from mimo_core.recipe import Recipe, dump
from mimo_core.verify import TOLERANCES, Judge, Verdict

from ..deadlock_simulator.replay import read, replay
from ..helpers.paths import RECIPES, TESTS
from ..helpers.runs import installed, start

RECIPE = RECIPES / "parity.yaml"

LAYOUTS: dict[str, tuple[str, ...]] = {
    "a rank a module": (),
    "encoder dp 2 into 1": ("modules.vision.grid.dp=2",),
    "encoders dp 4 and 2 into 1": ("modules.vision.grid.dp=4", "modules.depth.grid.dp=2"),
    "encoders dp 1 and 2 into 2": (
        "modules.depth.grid.dp=2",
        "modules.language.grid.dp=2",
        "train.micro_batch_size=2",
    ),
    "encoder tp 2": ("modules.vision.grid.tp=2", "modules.depth.grid.tp=2"),
    "language tp 2, sequence parallel": ("modules.language.grid.tp=2",),
    "language pp 2": ("modules.language.grid.pp=2",),
    "language cp 2": ("modules.language.grid.cp=2",),
    "language tp 2, cp 2, sequence parallel": (
        "modules.language.grid.tp=2",
        "modules.language.grid.cp=2",
    ),
    "encoder pp 2 beside pp 1": ("modules.vision.grid.pp=2",),
    "encoders pp 2 and dp 2": ("modules.vision.grid.pp=2", "modules.depth.grid.dp=2"),
    "language ep 2": (
        "modules.language.grid.dp=2",
        "modules.language.grid.ep=2",
        "train.micro_batch_size=2",
    ),
    "encoder pp 2 and dp 2, language pp 2": (
        "modules.vision.grid.pp=2",
        "modules.depth.grid.dp=2",
        "modules.language.grid.pp=2",
        "modules.vision.extra_warmup_microbatches=1",
        "modules.depth.extra_warmup_microbatches=3",
    ),
    "everything on 8 ranks": (
        "modules.vision.grid.tp=2",
        "modules.depth.grid.dp=2",
        "modules.language.grid.tp=2",
        "modules.language.grid.dp=2",
        "modules.language.grid.ep=2",
        "train.micro_batch_size=2",
        # In buckets of a few layers, with microbatches that have no picture on one rank.
        "megatron.overlap_grad_reduce=true",
        "megatron.ddp_bucket_size=2000",
    ),
}

ALWAYS = {
    "language tp 2, cp 2, sequence parallel",
    "encoder pp 2 and dp 2, language pp 2",
    "everything on 8 ranks",
}
"""The others have nothing that is not in these, one thing at a time: ``make test-long``."""
CASES = [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.long) for name in LAYOUTS]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = installed("uneven", tmp_path_factory.mktemp("site"))
    shutil.copy(TESTS / "deadlock_simulator" / "record.py", path / "order_record.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")]))
        yield path


@pytest.fixture(scope="module")
def judge_of(
    site: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Sequence[str]], Judge]:
    """The judge of a layout: each size of microbatches has one."""
    judges: dict[int, Judge] = {}

    def find(overrides: Sequence[str]) -> Judge:
        recipe = planned(*overrides)
        size = recipe.train.micro_batch_size
        if size not in judges:
            judges[size] = Judge.run(recipe, tmp_path_factory.mktemp("parity"))
        return judges[size]

    return find


def replay_whole_run(folder: Path) -> None:
    """No rank may wait for ever, on any GPU: what gloo, which keeps no order, does not show."""
    ranks = [read(folder / str(rank)) for rank in range(len(list(folder.iterdir())))]
    assert all(
        any(one.name == "batch" for one in operations) for operations in (ranks[0], ranks[-1])
    )
    for lazy in (False, True):
        replay(ranks, lazy=lazy)


def assert_reduced_in_backward(folder: Path, recipe: Recipe) -> None:
    """Buckets of the language model's last layers leave before the backward of its experts."""
    first = sum(recipe.modules[name].grid.size for name in ("vision", "depth"))
    operations = read(folder / str(first))
    names = [one.name for one in operations]
    used: dict[str, set[str]] = {}
    for one in operations:
        used.setdefault(one.group, set()).add(one.name)
    # Tokens are gathered and summed over tensor-parallel ranks too, which add numbers up besides.
    (experts,) = (
        group
        for group, kinds in used.items()
        if "_reduce_scatter_base_" in kinds and "allreduce_" not in kinds
    )
    gone = [place for place, name in enumerate(names) if name.startswith("reduce_scatter_tensor")]
    early = [
        place
        for place in gone
        if any(one.group == experts for one in operations[place : names.index("batch", place)])
    ]
    # The first step shows what a step touches.
    assert len(early) >= recipe.train.iterations - 1


def planned(*overrides: str) -> Recipe:
    return make_plan(RECIPE, overrides).recipe


def agreed(verdict: Verdict) -> None:
    """Says how far both are apart (``pytest -s``), and that it is no more than rounding."""
    print(", ".join(f"{what} {worst:.1e}" for what, worst in verdict.worst.items()))
    assert verdict.equal, "\n".join(map(str, verdict.rows))


@pytest.mark.parametrize("name", CASES)
def test_a_layout_trains_as_one_process_does(
    judge_of: Callable[[Sequence[str]], Judge],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    print(name, end=": ")
    judge = judge_of(LAYOUTS[name])
    monkeypatch.setenv("MIMO_TEST_OPERATIONS", str(tmp_path))
    verdict = judge.compare(planned(*LAYOUTS[name]), name)
    agreed(verdict)
    replay_whole_run(tmp_path)
    if "megatron.overlap_grad_reduce=true" in LAYOUTS[name]:
        assert_reduced_in_backward(tmp_path, planned(*LAYOUTS[name]))
    norms = {
        (row.step, row.module): row.judge for row in verdict.rows if row.quantity == "gradient norm"
    }
    assert norms[2, "vision"] == 0 == norms[3, "depth"], "an encoder that sees nothing"
    assert all(norms[step, LANGUAGE] > 0 for step in (1, 2, 3))


@pytest.mark.parametrize(
    ("frozen", "parts"),
    [
        pytest.param(
            ("modules.vision.freeze=[encoder]", "modules.depth.freeze=[projector]"),
            {"vision.encoder", "depth.projector"},
            id="an encoder and another's projector",
            marks=pytest.mark.long,
        ),
        pytest.param(
            ("modules.vision.freeze=[encoder, projector]", "modules.language.freeze=[language]"),
            {"vision.encoder", "vision.projector", "language.language"},
            id="an encoder with its projector, and the language model",
            marks=pytest.mark.long,
        ),
    ],
)
def test_what_is_frozen_keeps_every_bit_and_the_rest_learns_as_in_one_process(
    site: Path,
    tmp_path: Path,
    frozen: tuple[str, ...],
    parts: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The frozen tower, on two tensor-parallel ranks, begins each next step while one ends."""
    wide = ("modules.vision.grid.tp=2", "modules.language.grid.tp=2")
    judge = Judge.run(planned(*frozen), tmp_path)
    operations = tmp_path / "operations"
    operations.mkdir()
    monkeypatch.setenv("MIMO_TEST_OPERATIONS", str(operations))
    verdict = judge.compare(planned(*frozen, *wide), "layout")
    assert verdict.frozen == dict.fromkeys(parts, True)
    agreed(verdict)
    replay_whole_run(operations)


@pytest.mark.long
def test_packed_samples_train_as_in_one_process(site: Path, tmp_path: Path) -> None:
    packed = "modules.language.packing=true"
    wide = ("modules.language.grid.dp=2", "modules.language.grid.cp=2", "train.micro_batch_size=2")
    layout = planned(packed, *wide)
    verdict = Judge.run(layout, tmp_path).compare(layout, "layout")
    agreed(verdict)


@pytest.mark.long
def test_a_run_on_one_rank_goes_on_over_several(
    judge_of: Callable[[Sequence[str]], Judge], tmp_path: Path
) -> None:
    """From the judge's second checkpoint, on 8 ranks; the third step is the judge's."""
    judge = judge_of(LAYOUTS["everything on 8 ranks"])
    folder = tmp_path / "run"
    shutil.copytree(judge.base / "judge", folder, symlinks=True)
    shutil.rmtree(folder / "checkpoints" / "iter_0000003")
    wide = planned(*LAYOUTS["everything on 8 ranks"])
    recipe = tmp_path / "wide.yaml"
    train = attrs.evolve(judge.recipe.train, micro_batch_size=wide.train.micro_batch_size)
    recipe.write_text(
        dump(
            attrs.evolve(judge.recipe, modules=wide.modules, train=train, placement="non_colocated")
        )
    )
    run = start(recipe, folder=folder)
    assert run.code == 0, run.screen + run.errors
    assert "going on after iteration 2" in run.screen
    told = json.loads((judge.base / "judge" / "summary.json").read_text())["iterations"]
    assert run.losses == pytest.approx([row["loss"] for row in told], rel=TOLERANCES["loss"])
    norms = [row["gradient_norm"] for row in told]
    assert run.norms == pytest.approx(norms, rel=TOLERANCES["gradient norm"])
