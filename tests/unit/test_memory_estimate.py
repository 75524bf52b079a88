"""Bytes that a rank holds: by stage, by what divides a weight, by precision and freezing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from mimo_core import ModuleDescription, ParameterSpec, hookimpl, pretrain
from mimo_core.launch import launcher
from mimo_core.planning.memory_estimate import RankMemory, rank_memory
from mimo_core.planning.plan import make_plan
from mimo_core.recipe import load_text
from mimo_core.testing import run_ranks
from mimo_core.verify import Judge, verify
from mimo_core.verify.recipes import judges

from ..helpers.fake_plugins import RECIPE, eye, host, words
from ..helpers.paths import RANK_FUNCTIONS, RECIPES

TP = frozenset({"tp"})
EXPERTS = frozenset({"ep", "etp"})


def model(*weights: ParameterSpec) -> object:
    @hookimpl
    def describe_module(module):
        return ModuleDescription(
            hidden_size=8,
            num_layers=6,
            num_attention_heads=8,
            num_experts=16,
            parameters=weights,
            supported_parallelism=frozenset({"tp", "cp", "pp", "dp", "ep", "etp"}),
        )

    return words(describe_module=describe_module)


def encoder(*weights: ParameterSpec) -> object:
    @hookimpl
    def describe_module(module):
        return ModuleDescription(
            hidden_size=8,
            num_layers=6,
            num_attention_heads=8,
            parameters=weights,
            modality="image",
            count_positions=lambda media: [4] * len(media),
            supported_parallelism=frozenset({"tp", "dp"}),
        )

    return eye(describe_module=describe_module)


def memory(*overrides: str, **plugins: object) -> tuple[RankMemory, ...]:
    recipe = load_text(RECIPE, "recipe.yaml", ["modules.vision.freeze=[]", *overrides]).recipe
    plan = make_plan(recipe, host=host(**plugins))
    return rank_memory(plan.graph, plan.layout)


def of_language(*weights: ParameterSpec, grid: str, precision: str = "fp32") -> list[RankMemory]:
    found = memory(
        f"modules.language.grid={{{grid}}}",
        "modules.vision.grid={}",
        f"train.precision={precision}",
        "train.sequence_length=96",
        "train.global_batch_size=24",
        words=model(*weights),
    )
    return [held for held in found if held.module == "language"]


def test_what_is_copied_what_is_split_and_where_the_optimizer_is_divided():
    grid = "tp: 2, dp: 3, cp: 2, ep: 4"
    (copied,) = of_language(ParameterSpec(num_parameters=1200), grid=grid)
    assert copied == RankMemory(
        module="language",
        ranks=range(1, 13),
        parameters=1200,
        weights=1200 * 4,
        gradients=1200 * 4,
        optimizer=1200 // 6 * 8,
    )
    assert copied.total == 2 * 4800 + 1600
    (split,) = of_language(ParameterSpec(num_parameters=1200, sharded_over=TP), grid=grid)
    assert (split.parameters, split.optimizer) == (600, 600 // 6 * 8)
    (experts,) = of_language(ParameterSpec(num_parameters=1200, sharded_over=EXPERTS), grid=grid)
    assert (experts.parameters, experts.optimizer) == (300, 300 // 3 * 8)
    (thin,) = of_language(
        ParameterSpec(num_parameters=1200, sharded_over=EXPERTS), grid=f"{grid}, etp: 3"
    )
    assert (thin.parameters, thin.optimizer) == (100, 100 // 1 * 8)


def test_bf16_halves_weights_alone_and_keeps_a_main_copy():
    (held,) = of_language(ParameterSpec(num_parameters=1200), grid="dp: 4", precision="bf16")
    assert (held.weights, held.gradients, held.optimizer) == (2400, 4800, 300 * 12)


def test_a_module_has_its_own_precision():
    vision, language = memory(
        "modules.vision.precision=bf16",
        "modules.language.grid={}",
        "modules.vision.grid={}",
        eye=encoder(ParameterSpec(num_parameters=10)),
        words=model(ParameterSpec(num_parameters=10)),
    )
    assert (vision.weights, language.weights) == (20, 40)


def test_stages_hold_their_own_layers_and_alike_ones_are_one_line():
    layers = [ParameterSpec(num_parameters=100, layer=layer) for layer in range(6)]
    head, tail = ParameterSpec(num_parameters=7), ParameterSpec(num_parameters=7, layer="last")
    (whole,) = of_language(*layers, grid="dp: 2")
    assert whole.parameters == 600
    first, middle, last = of_language(head, *layers, tail, grid="dp: 2, pp: 6")
    assert (first.ranks, first.parameters) == (range(1, 3), 107)
    assert (middle.ranks, middle.parameters) == (range(3, 11), 100)
    assert (last.ranks, last.parameters) == (range(11, 13), 107)
    uneven = of_language(ParameterSpec(num_parameters=100, layer=2), grid="pp: 3")
    assert [held.parameters for held in uneven] == [0, 100, 0]


def test_frozen_parts_have_neither_gradients_nor_states():
    parts = (
        ParameterSpec(num_parameters=1000),
        ParameterSpec(num_parameters=10, component="projector", layer="last"),
    )
    grids = ("modules.vision.grid={}", "modules.language.grid={}")
    vision, _ = memory("modules.vision.freeze=[encoder]", *grids, eye=encoder(*parts))
    assert (vision.parameters, vision.weights) == (1010, 4040)
    assert (vision.gradients, vision.optimizer) == (40, 80)
    vision, _ = memory("modules.vision.freeze=[encoder, projector]", *grids, eye=encoder(*parts))
    assert (vision.gradients, vision.optimizer) == (0, 0)


def test_modules_come_in_the_order_of_their_ranks():
    found = memory(
        "modules.vision.grid={dp: 2, rank_offset: 4}",
        "modules.language.grid={dp: 4, rank_offset: 0}",
    )
    assert [(held.module, held.ranks) for held in found] == [
        ("language", range(4)),
        ("vision", range(4, 6)),
    ]


def test_ranks_hold_what_the_plan_says():
    """An fp32 encoder of two stages whose tower is frozen, beside a bf16 language model with
    experts."""
    tiny = str(RECIPES / "tiny.yaml")
    overrides = [
        "train.precision=bf16",
        "modules.vision.precision=fp32",
        "modules.vision.freeze=[encoder]",
        "modules.vision.options.layers=2",
        "modules.vision.grid.pp=2",
        "modules.language.grid={dp: 2, ep: 2}",
    ]
    ranks = run_ranks(
        f"{RANK_FUNCTIONS / 'memory_estimate.py'}:held", ranks=4, recipe=tiny, overrides=overrides
    )
    plan = make_plan(tiny, overrides)
    for planned in rank_memory(plan.graph, plan.layout):
        real = [ranks[rank] for rank in planned.ranks]
        assert {rank["module"] for rank in real} == {planned.module}
        assert {rank["parameters"] for rank in real} == {planned.parameters}
        # Megatron begins each parameter of a bucket at a multiple of 64 numbers, and ends the
        # bucket at one of 128: one of dense weights, one of experts.
        (gaps,) = {rank["gaps"] for rank in real}
        for what in ("weights", "gradients"):
            (held,) = {rank[what] for rank in real}
            assert 0 <= held - getattr(planned, what) <= 4 * (gaps + 2 * 128), what
        # The parts of single ranks differ by the padding of buckets, which is large beside so few
        # parameters; together they are all of the state.
        together = sum(rank["optimizer"] for rank in real)
        assert together == pytest.approx(len(real) * planned.optimizer, rel=1e-3)


@pytest.mark.parametrize(("spare", "told"), [(-1, True), (0, False)])
def test_a_run_that_this_machine_has_no_memory_for_says_so_before_it_starts(
    spare: int,
    told: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("MIMO_PLATFORM", "cpu")
    recipe = RECIPES / "tiny.yaml"
    plan = make_plan(recipe)
    taken = sum(each.total * len(each.ranks) for each in rank_memory(plan.graph, plan.layout))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=taken + spare))
    monkeypatch.setattr(launcher, "launch", lambda *_arguments: None)
    pretrain(recipe, run_dir=tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    assert ("and this machine has 0.0 GB: ranks may be killed" in said) is told


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_of_both_runs_that_are_compared_each_says_what_it_has_no_memory_for(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In fp32, which they compute in; replicas take more than the one rank does."""
    monkeypatch.setenv("MIMO_PLATFORM", "cpu")
    changes = (f"train.precision={precision}", "modules.language.grid.dp=2")
    recipe = make_plan(RECIPES / "tiny.yaml", changes).recipe
    alone = make_plan(judges(recipe, 1))
    taken = sum(each.total for each in rank_memory(alone.graph, alone.layout))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=taken))
    lines: list[str] = []
    begun = SimpleNamespace(compare=lambda *_: lines.append("compared"))
    monkeypatch.setattr(Judge, "run", lambda *_, **_more: begun)
    verify(recipe, steps=1, tell=lines.append)
    assert [line.split()[0] for line in lines] == ["on", "weights,", "in", "compared"]
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=taken - 1))
    lines.clear()
    verify(recipe, steps=1, tell=lines.append)
    assert [line.split()[0] for line in lines] == ["weights,", "on", "weights,", "in", "compared"]
