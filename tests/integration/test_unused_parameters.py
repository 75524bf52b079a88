"""Parameters that learn and get no gradient are named once; legitimate absences are not."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from mimo_core.planning.plan import make_plan
from mimo_core.train.unused_parameters import Reached, lines, unread_fields

from ..helpers.runs import installed, start, wrapping

PLAN = make_plan("demo")


def of(stage: int, expected: str, found: str) -> Reached:
    names = frozenset(expected.split()), frozenset(found.split())
    return Reached(pipeline_stage=stage, expected=names[0], found=names[1])


@pytest.mark.parametrize(
    ("gathered", "missing"),
    [
        ([{"vision": of(0, "a b", "a b")}], ""),
        ([{"vision": of(0, "a b", "a")}], "b (1 parameters)"),
        ([{"vision": of(0, "a b", "")}], ""),
        ([{"vision": of(0, "a b", "a")}, {"vision": of(0, "a b", "b")}], ""),
        ([{"vision": of(0, "a b", "a")}, {"vision": of(1, "c d", "c")}], "b, d (2 parameters)"),
        ([{"vision": of(0, "a b c d e", "a")}], "b, c, d and 1 more (4 parameters)"),
    ],
    ids=["all", "one", "did not run", "other samples", "stages", "many"],
)
def test_only_what_no_rank_of_a_stage_that_ran_gave_a_gradient_is_named(gathered, missing):
    told = lines(PLAN, [*gathered, {}], PLAN.graph.modules)
    if not missing:
        assert told == []
    else:
        (line,) = told
        assert line.startswith("module 'vision' (plugin 'radio'): no gradient reaches ")
        assert f"no gradient reaches {missing} in the first step" in line


def test_a_field_for_all_modules_is_named_if_no_module_reads_it() -> None:
    everywhere = "megatron={bias_dropout_fusion: false, apply_query_key_layer_scaling: false}"
    own = "modules.vision.megatron={moe_router_topk: 4}"
    plan = make_plan("demo", [everywhere, own])

    def reads(**fields: str) -> list[dict[str, Reached]]:
        return [
            {name: attrs.evolve(of(0, "", ""), fields=frozenset(read.split()))}
            for name, read in fields.items()
        ]

    seen = reads(vision="bias_dropout_fusion", language="moe_router_topk")
    vision, common = unread_fields(plan, seen, {"vision", "language"}, last=True)
    assert vision.startswith("modules.vision.megatron: ") and "moe_router_topk," in vision
    assert common.startswith("megatron: no module reads apply_query_key_layer_scaling,")
    assert unread_fields(plan, seen, {"language"}, last=False) == []
    seen += reads(vision="moe_router_topk", language="apply_query_key_layer_scaling")
    assert unread_fields(plan, seen, {"vision", "language"}, last=True) == []


def test_a_head_that_the_forward_does_not_use_is_named_in_a_run(tmp_path: Path) -> None:
    """Its bias gets a gradient of zeros, which is none that is missing."""
    site = tmp_path / "site"
    site.mkdir()
    run = start(
        "tiny",
        *wrapping("unreached", "vision"),
        "modules.vision.megatron={moe_router_topk: 4, bias_dropout_fusion: false}",
        "megatron={moe_z_loss_coeff: 0.1, apply_query_key_layer_scaling: false}",
        "checkpoint.enabled=false",
        folder=tmp_path / "run",
        site=installed("unreached", site),
    )
    assert run.code == 0, run.screen + run.errors
    screen = " ".join(run.screen.split())
    assert screen.count("no gradient reaches") == 1
    assert (
        "module 'vision' (plugin 'radio', wrapped by 'unreached') reads moe_router_topk," in screen
    )
    assert screen.count("so setting it has no effect") == 1
    assert len(run.summary["notes"]) == 2
    assert "no gradient reaches encoders.tower.head.weight (1 parameters)" in screen
