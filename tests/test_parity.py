"""Layouts against the judge: the same model, weights and samples in one process.

The samples are those of ``plugins/uneven_plugin.py``: none to three pictures of different sizes,
microbatches of text alone, pictures on the first or the last data-parallel ranks only, a step in
which one encoder sees nothing. Gradients are clipped in every step.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mimo_core.contract import LANGUAGE
from mimo_core.plan import make_plan
from mimo_core.recipe import Recipe, load_recipe
from mimo_core.verify import Judge

from .conftest import HERE, installed

RECIPE = HERE / "recipes" / "parity.yaml"

LAYOUTS = {
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
    "everything on 8 ranks": (
        "modules.vision.grid.tp=2",
        "modules.depth.grid.dp=2",
        "modules.language.grid.tp=2",
        "modules.language.grid.dp=2",
        "modules.language.grid.ep=2",
        "train.micro_batch_size=2",
    ),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = installed("uneven", tmp_path_factory.mktemp("site"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")]))
        yield path


@pytest.fixture(scope="module")
def judge(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Judge:
    return Judge.run(load_recipe(RECIPE).recipe, tmp_path_factory.mktemp("parity"))


def planned(*overrides: str) -> Recipe:
    return make_plan(RECIPE, overrides).recipe


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_trains_as_one_process_does(judge: Judge, name: str) -> None:
    verdict = judge.compare(planned(*LAYOUTS[name]), name)
    print(f"{name}: " + ", ".join(f"{what} {worst:.1e}" for what, worst in verdict.worst.items()))
    assert verdict.equal, "\n".join(map(str, verdict.rows))
    norms = {
        (row.step, row.module): row.judge for row in verdict.rows if row.quantity == "gradient norm"
    }
    assert norms[2, "vision"] == 0 == norms[3, "depth"], "an encoder that sees nothing"
    assert all(norms[step, LANGUAGE] > 0 for step in (1, 2, 3))
