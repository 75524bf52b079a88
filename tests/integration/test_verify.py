"""``mimo verify``: what it says of a layout that is right, and of one that is wrong."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import attrs
import pytest
from rich.console import Console

from mimo_core.errors import RecipeError
from mimo_core.launch.launcher import RunFailedError
from mimo_core.planning.plan import make_plan
from mimo_core.verify import TOLERANCES, Judge, Row, Verdict, verify
from mimo_core.verify.compare import compare_iterations
from mimo_core.verify.recipes import judges, layouts
from mimo_core.verify.table import verdict_table

from ..helpers.paths import RECIPES
from ..helpers.runs import TIMEOUT, installed, wrapping

TINY = str(RECIPES / "tiny.yaml")


def mimo_verify(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mimo_core.cli.mimo", "verify", TINY, *words],
        env={**os.environ, "COLUMNS": "120", **environ},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def test_a_gradient_that_is_wrong_by_a_percent_on_one_rank_is_found(tmp_path: Path) -> None:
    """On the second of two encoder ranks, which the judge has not."""
    site = installed("gradients", tmp_path)
    done = mimo_verify(
        *("modules.vision.grid.dp=2", *wrapping("gradients", "vision"), "--steps=2", "--json"),
        PYTHONPATH=os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]),
        GRADIENTS="1 1.01 1 99",
    )
    assert done.returncode == 1, done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["equal"] is False
    wrong = {(row["step"], row["quantity"], row["module"]) for row in verdict["rows"]}
    wrong -= {
        (row["step"], row["quantity"], row["module"]) for row in verdict["rows"] if row["equal"]
    }
    assert (1, "gradient", "vision") in wrong
    assert (1, "loss", None) not in wrong and (1, "gradient", "language") not in wrong
    assert 1e-3 < verdict["worst"]["gradient"] < 0.1


def test_a_right_layout_is_shown_as_a_table_and_kept(tmp_path: Path) -> None:
    done = mimo_verify(
        "--steps=1", f"--run-dir={tmp_path / 'kept'}", "modules.vision.freeze=[encoder]"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for said in ("gradient norm", "vision", "language", "parameter change", "equal: this layout"):
        assert said in done.stdout
    assert "vision.encoder is frozen: no bit changed" in done.stdout
    kept = {path.name for path in (tmp_path / "kept").iterdir() if path.is_dir()}
    assert kept == {"judge", "initial", "layout"}


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "judge").mkdir()
    done = mimo_verify(f"--run-dir={tmp_path}")
    assert (done.returncode, done.stdout) == (2, "")
    assert str(tmp_path) in done.stderr
    assert done.stderr.endswith(" [verify.folder-not-empty]\n") and done.stderr.count("\n") == 1


def test_a_run_that_stops_early_is_not_compared() -> None:
    done = mimo_verify("--steps=2", "megatron.exit_interval=1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "the run of the judge was stopped" in done.stderr and "[verify.stopped]" in done.stderr


def test_the_judge_begins_with_values_of_its_own() -> None:
    """The layout's are loaded, and need none before."""
    meta = {"init_model_with_meta_device": True}
    recipe = make_plan(TINY).recipe
    shared = attrs.evolve(recipe, megatron=meta)
    each = attrs.evolve(
        recipe,
        modules={n: attrs.evolve(module, megatron=meta) for n, module in recipe.modules.items()},
    )
    assert judges(shared, 1) == judges(each, 1) == judges(recipe, 1)
    assert layouts(shared, 1, Path("initial")).megatron == meta


@pytest.mark.parametrize(("rate", "used"), [(1e-2, 1e-3), (2e-4, 2e-4)])
def test_no_more_is_learned_than_leaves_rounding_alone(rate: float, used: float) -> None:
    changes = (f"train.learning_rate={rate}", f"train.min_learning_rate={rate / 2}")
    recipe = make_plan(TINY, changes).recipe
    for measured in (judges(recipe, 3), layouts(recipe, 3, Path("initial"))):
        assert measured.train.learning_rate == used
        assert measured.train.min_learning_rate <= used


def test_layouts_are_verified_without_graphs() -> None:
    """The comparison is in fp32, where kernels of experts and of towers are others."""
    other = "persist_layer_norm: false"
    tower = f"modules.vision.megatron={{cuda_graph_impl: local, {other}}}"
    frozen = make_plan(TINY, [tower, "modules.vision.freeze=[encoder]", "train.precision=bf16"])
    for parts in ("[mamba, moe]", "[attn]"):
        layers = f"cuda_graph_impl: local, cuda_graph_modules: {parts}, {other}"
        asked = make_plan(frozen.recipe, [f"modules.language.megatron={{{layers}}}"]).recipe
        for judged in (judges(asked, 1), layouts(asked, 1, Path("initial"))):
            for module in judged.modules.values():
                assert module.megatron == {"persist_layer_norm": False}


def test_the_folder_of_a_failed_run_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names a log in it."""
    folders = []

    def fails(recipe: object, base: Path, **_more: object) -> None:
        folders.append(base)
        raise error

    monkeypatch.setattr(Judge, "run", fails)
    failed = RunFailedError("rank 0 failed", code="a.b")
    for error in (failed, RecipeError("it is wrong", code="a.c"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught:
            verify(RECIPES / "tiny.yaml")
        assert (f"is kept in {folders[-1]}" in str(caught.value)) == isinstance(
            error, RunFailedError
        )
        assert getattr(caught.value, "code", "") == getattr(error, "code", "")
    assert [folder.exists() for folder in folders] == [True, False, False]
    folders[0].rmdir()


def test_a_module_that_draws_random_numbers_is_refused() -> None:
    done = mimo_verify("--steps=1", "modules.language.options.dropout=0.1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "module 'language' has dropout 0.1" in done.stderr
    assert done.stderr.endswith(" [verify.dropout]\n")


def test_what_is_no_number_is_not_equal() -> None:
    iteration = {"iteration": 1, "loss": 2.0, "gradient_norms": {"language": 0.5}}
    skipped = {"iteration": 1, "loss": None, "gradient_norms": {"language": None}}
    assert all(row.equal for row in compare_iterations([iteration], [iteration]))
    for one, other in [(iteration, skipped), (skipped, iteration), (skipped, skipped)]:
        rows = compare_iterations([one], [other])
        assert not any(row.equal for row in rows)
        assert all(
            math.isinf(value) for value in Verdict(rows=tuple(rows), frozen={}).worst.values()
        )


@pytest.mark.parametrize(("difference", "equal"), [(0.5, True), (1.5, False)])
def test_the_verdict_is_that_of_its_worst_value(difference: float, equal: bool) -> None:
    rows = tuple(
        Row(
            step=1,
            quantity="loss",
            module=None,
            judge=1.0,
            layout=1.0,
            difference=part * TOLERANCES["loss"],
        )
        for part in (0.0, difference)
    )
    assert Verdict(rows=rows, frozen={}).equal is equal
    assert Verdict(rows=rows, frozen={"vision.encoder": False}).equal is False


def test_what_differs_from_the_second_step_on_may_be_rounding() -> None:
    """The table says how to find out; not where the first step differs."""
    for step, told in ((1, False), (2, True)):
        far = Row(
            step=step,
            quantity="gradient",
            module="vision",
            judge=1.0,
            layout=1.0,
            difference=2 * TOLERANCES["gradient"],
        )
        printed = StringIO()
        Console(file=printed).print(verdict_table(Verdict(rows=(far,), frozen={})))
        screen = " ".join(printed.getvalue().split())
        assert "NOT equal: 1 of 1 values" in screen
        assert ("a smaller train.learning_rate" in screen) == told


def test_where_both_are_zero_nothing_differs() -> None:
    """An encoder that sees nothing in a step."""
    silent = {"iteration": 1, "loss": 2.0, "gradient_norms": {"vision": 0.0}}
    loud = {"iteration": 1, "loss": 2.0, "gradient_norms": {"vision": 1e-9}}
    assert all(row.equal for row in compare_iterations([silent], [silent]))
    assert [row.equal for row in compare_iterations([silent], [loud])] == [True, False]
