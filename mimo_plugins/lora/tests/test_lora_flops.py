"""Work of adapted modules: the weights of a base learn nothing, but gradients go through them."""

from __future__ import annotations

from pathlib import Path

from mimo_core import FlopsEstimate, MediaItem, Sample
from mimo_core.planning.flops import FlopsCounter
from mimo_core.planning.plan import Plan, make_plan

RECIPE = Path(__file__).with_name("adapters.yaml")


def test_a_base_takes_no_gradients_of_weights() -> None:
    adapted, plain = make_plan(RECIPE), make_plan(RECIPE, ["modules.vision.wrappers={}"])
    tower, projector = pieces(plain, "vision")
    assert work(plain)["vision"] == 3 * (whole(tower) + whole(projector))
    told = work(adapted)
    assert told["vision"] == 2 * tower.weight_matmul + 3 * tower.activation_matmul + 3 * whole(
        projector
    )
    (language,) = pieces(make_plan(RECIPE, ["modules.language.wrappers={}"]), "language")
    assert told["language"] == 2 * language.weight_matmul + 3 * language.activation_matmul


def test_the_adapters_of_a_frozen_encoder_want_gradients_of_a_frozen_language_model() -> None:
    frozen = ["modules.vision.freeze=[projector]", "modules.language.freeze=[language]"]
    plan = make_plan(RECIPE, [*frozen, "modules.language.wrappers={}"])
    (language,) = pieces(plan, "language")
    assert work(plan)["language"] == 2 * language.weight_matmul + 3 * language.activation_matmul


def samples() -> list[Sample]:
    picture = MediaItem(modality="image", shape=(16, 16), load=lambda _: None)
    return [Sample(key="one", content=(picture,))]


def work(plan: Plan) -> dict[str, float]:
    workload = FlopsCounter(plan.graph, plan.host)
    return workload.read(workload.numbers(samples(), [9])).flops


def pieces(plan: Plan, name: str) -> list[FlopsEstimate]:
    module = plan.graph.modules[name]
    told: list[FlopsEstimate] = plan.host.call_hook(
        "estimate_flops", module.plugin, module=module, samples=samples(), lengths=[9]
    )
    return told


def whole(piece: FlopsEstimate) -> float:
    return piece.weight_matmul + piece.activation_matmul
