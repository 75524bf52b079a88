"""No number of a run follows padding: whole models with every option of experts, over ranks.

Each case has the same model and samples in a layout, with a longer sequence, or packed. A judge
trains on one rank: packed for cases that are not, and not packed for cases that are. So one of both
runs has no padding. An expert's bias moves by the sign of a difference of counts: padding that both
runs count may leave the sign as it is, however much there is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import attrs
import pytest

from mimo_core.checkpoint.directory import checkpoint_path
from mimo_core.checkpoint.keys import module_prefix, optimizer_prefix
from mimo_core.checkpoint.reader import Checkpoint
from mimo_core.planning.plan import make_plan
from mimo_core.recipe import Recipe
from mimo_core.reporting.run_directory import RunDirectory
from mimo_core.verify import TOLERANCES, Judge
from mimo_core.verify.recipes import judges
from mimo_core.verify.run import STEPS

from ..helpers.paths import RECIPES
from ..helpers.runs import installed

pytestmark = pytest.mark.long

# Of these options, gpt has no bias and no shared expert.
MODELS: dict[str, tuple[str, ...]] = {
    "nemotron": (),  # the recipe has bias, both losses and a shared expert
    "gpt": (
        "modules.language.plugin=gpt",
        "modules.language.options={hidden_size: 32, layers: 2, attention_heads: 4, kv_heads: 4, "
        "experts: 4, experts_per_token: 2, expert_ffn_hidden_size: 32, router_aux_loss: 1.0e-2}",
        "modules.language.megatron={moe_z_loss_coeff: 1.0e-2}",
    ),
}
BASE = ("train.micro_batch_size=2",)
LONGER = ("train.sequence_length=112",)
PACKED = ("modules.language.packing=true",)
CONTEXT = ("modules.language.grid.tp=2", "modules.language.grid.cp=2")
EXPERTS = (
    "modules.vision.grid.tp=2",
    "modules.depth.grid.dp=2",
    "modules.language.grid.tp=2",
    "modules.language.grid.dp=2",
    "modules.language.grid.ep=2",
)
CASES = {
    "tp 2 and cp 2, longer": (*CONTEXT, *LONGER),
    "tp 2 and cp 2, packed and longer": (*CONTEXT, *PACKED, *LONGER),
    "tp 2, dp 2 and ep 2, longer": (*EXPERTS, *LONGER),
    "tp 2, dp 2 and ep 2, packed": (*EXPERTS, *PACKED),
}


def planned(*overrides: str) -> Recipe:
    return make_plan(RECIPES / "parity.yaml", overrides).recipe


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    path = installed("uneven", tmp_path_factory.mktemp("site"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")]))
        yield


@pytest.fixture(scope="module", params=MODELS)
def model(
    request: pytest.FixtureRequest, site: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[tuple[str, ...], Callable[[bool], Judge]]:
    """The overrides of a model, and its judges: packed or not."""
    overrides = (*MODELS[request.param], *BASE)

    @cache
    def judge(packed: bool) -> Judge:
        recipe = planned(*overrides, *(PACKED if packed else ()))
        return Judge.run(recipe, tmp_path_factory.mktemp(request.param))

    return overrides, judge


def buffers(judge: Judge, name: str, iteration: int) -> dict[str, Any]:
    """Values of the language model's tensors that have no optimizer state."""
    folder = RunDirectory(judge.base / name).checkpoints(None)
    checkpoint = Checkpoint(checkpoint_path(folder, iteration))
    state = f"{optimizer_prefix('language')}state.exp_avg."
    return {
        key: checkpoint.read(key, ())
        for key in checkpoint.keys
        if key.startswith(module_prefix("language")) and state + key not in checkpoint.keys
    }


def summary(judge: Judge, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RunDirectory(judge.base / name).summary.read_text())
    return found


@pytest.mark.parametrize("case", CASES)
def test_no_number_of_a_layout_follows_padding(
    model: tuple[tuple[str, ...], Callable[[bool], Judge]], case: str
) -> None:
    """Losses, the gradient of each parameter, biases and evaluation.

    The sums are those of another layout, in another order: the bounds of ``mimo verify``.
    """
    overrides, judges_of = model
    judge = judges_of(not set(PACKED) <= set(CASES[case]))
    layout = planned(*overrides, *CASES[case])
    name = case.replace(" ", "-").replace(",", "")
    padded = attrs.evolve(judge, recipe=judges(layout, STEPS))
    verdict = padded.compare(layout, name)
    print(case, dict(verdict.worst))
    assert verdict.equal, "\n".join(map(str, verdict.rows))
    for step in range(1, STEPS + 1):
        expected, found = buffers(judge, "judge", step), buffers(judge, name, step)
        biases = [key for key in expected if key.endswith("expert_bias")]
        assert bool(biases) == planned(*overrides).modules["language"].options.get(
            "router_bias", False
        )
        if step == STEPS:
            assert all(expected[key].any() for key in biases)
        for key, value in expected.items():
            # A bias moves by a fixed rate times the sign of a count of tokens, the same on every
            # rank: it differs by rounding of float32 only (2**-24 of a sum of few moves).
            gap = (found[key].double() - value.double()).abs().max().item()
            assert gap <= 2.0**-20 * value.abs().max().item(), (step, key)
    expected, found = (summary(judge, run)["evaluation"] for run in ("judge", name))
    assert found["loss"] == pytest.approx(expected["loss"], rel=TOLERANCES["loss"])
