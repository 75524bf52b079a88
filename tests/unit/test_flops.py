"""Model FLOPs of training, by what learns; what GPUs can do; speed by module."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import mimo_core
from mimo_core import FlopsEstimate, MediaItem, MimoError, Sample, Text, hookimpl
from mimo_core.planning.flops import FlopsCounter, training_flops
from mimo_core.planning.plan import Plan, make_plan
from mimo_core.platforms.peak_flops import peak_flops
from mimo_core.recipe import load_text
from mimo_core.reporting.throughput import figures
from mimo_core.utils.environment import PEAK

from ..helpers.fake_plugins import RECIPE, eye, host, words

ROWS, WIDTH = 6, 4
PARTS = ("encoder", "projector", "language")


class Part(nn.Module):
    """A part with a parameter before its matrices, so that what goes into these wants gradients
    wherever the part learns."""

    def __init__(self, *, attends: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(WIDTH))
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.attends = attends

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x * self.scale)
        return (x @ x.T).softmax(-1) @ x if self.attends else x

    def told(self, part: Any) -> FlopsEstimate:
        pairs = 4.0 * ROWS**2 * WIDTH
        return FlopsEstimate(
            component=part,
            weight_matmul=2.0 * ROWS * WIDTH**2,
            activation_matmul=pairs if self.attends else 0.0,
        )


@pytest.mark.parametrize("learning", list(product((False, True), repeat=3)))
def test_backward_takes_what_autograd_makes(learning: tuple[bool, ...]) -> None:
    """In every combination of parts that learn: products of weights, and of activations."""
    model = nn.ModuleDict({part: Part(attends=part != "projector") for part in PARTS})
    for part, learns in zip(PARTS, learning, strict=True):
        model[part].requires_grad_(learns)
    with FlopCounterMode(display=False) as counter:
        hidden = torch.randn(ROWS, WIDTH)
        for part in PARTS:
            hidden = model[part](hidden)
        if any(learning):
            hidden.sum().backward()
    pieces = [model[part].told(part) for part in PARTS]
    freeze = [part for part, learns in zip(PARTS, learning, strict=True) if not learns]
    encoder = training_flops(pieces[:2], freeze)
    language = training_flops(pieces[2:], freeze, gradients=any(learning[:2]))
    assert encoder + language == counter.get_total_flops()


def test_what_a_plugin_says_is_frozen_is() -> None:
    pieces = [FlopsEstimate(weight_matmul=10.0, activation_matmul=1.0, frozen=True)]
    assert training_flops(pieces, ()) == 11
    assert training_flops([FlopsEstimate(weight_matmul=2.0), *pieces], ()) == 3 * 2 + 2 * 10 + 3 * 1


# Modules
def plan_of(*overrides: str, **hooks: Any) -> Plan:
    @hookimpl
    def eye_flops(module, samples):
        count = sum(1 for sample in samples for _ in sample.media("image"))
        return [
            FlopsEstimate(weight_matmul=100.0 * count),
            FlopsEstimate(component="projector", weight_matmul=10.0 * count),
        ]

    @hookimpl
    def words_flops(lengths):
        return [FlopsEstimate(component="language", weight_matmul=1.0 * sum(lengths))]

    made = {
        "eye": eye(estimate_flops=eye_flops),
        "words": words(estimate_flops=words_flops),
    } | hooks
    recipe = load_text(RECIPE, "recipe.yaml", overrides).recipe
    return make_plan(recipe, host=host(**made))


def samples() -> list[Sample]:
    def load(_generator: Any) -> Any:
        raise AssertionError("decoded")

    picture = MediaItem(modality="image", shape=(8, 8), load=load)
    return [
        Sample(key="two", content=(picture, Text(text="a"), picture)),
        Sample(key="none", content=(Text(text="b"),)),
    ]


def work(plan: Plan) -> dict[str, float]:
    workload = FlopsCounter(plan.graph, plan.host)
    told = workload.read(workload.numbers(samples(), [30, 5]))
    assert told.media == {"vision": 2}
    return told.flops


def test_gradients_go_through_a_frozen_language_model_to_an_encoder_that_learns() -> None:
    frozen = "modules.language.freeze=[language]"
    assert work(plan_of("modules.vision.freeze=[]")) == {"vision": 3 * 220, "language": 3 * 35}
    only_projector = plan_of("modules.vision.freeze=[encoder]", frozen)
    assert work(only_projector) == {"vision": 200 + 3 * 20, "language": 2 * 35}
    assert work(plan_of("modules.vision.freeze=[encoder, projector]")) == {
        "vision": 220,
        "language": 3 * 35,
    }


def test_a_plugin_that_tells_no_flops_is_left_out_and_so_is_the_sum() -> None:
    plan = plan_of(eye=eye())
    told = work(plan)
    assert told == {"language": 3 * 35}
    rows = [{"step_seconds": 1.0, "positions": 64, "flops": told, "media": {"vision": 2}}]
    peaks = [{plan.layout.modules_on_rank(rank)[0]: 1.0} for rank in range(plan.layout.world_size)]
    modules, model = figures(plan, rows, peaks)
    assert modules["vision"].mfu is None and modules["vision"].media_per_second == 2
    assert modules["language"].mfu is not None
    assert model.flops_per_step is None and model.mfu is None


# Speed
def test_modules_add_up_over_the_ranks_of_each() -> None:
    """4 ranks of an encoder and 8 of the language model, of machines of two kinds."""
    plan = plan_of("modules.language.grid={dp: 8}")
    rows = [
        {
            "step_seconds": seconds,
            "positions": 500,
            "flops": {"vision": vision, "language": 4e12},
            "media": {"vision": 6},
        }
        for seconds, vision in ((0.5, 1e12), (0.5, 3e12), (9.0, 2e12))
    ]
    peaks = [*[{"vision": 10e12}] * 4, *[{"language": 20e12}] * 8]
    modules, model = figures(plan, rows, peaks)
    vision, language = modules["vision"], modules["language"]
    assert (vision.ranks, vision.flops_per_step) == (4, 2e12)
    assert vision.flops_per_second_per_rank == 1e12
    assert (vision.mfu, language.mfu) == (0.1, 0.05)
    assert (vision.media_per_second, language.tokens_per_second) == (12, 1000)
    assert (model.ranks, model.flops_per_step) == (12, 6e12)
    assert model.mfu == pytest.approx(12e12 / (4 * 10e12 + 8 * 20e12))
    peaks[0] = {"vision": None}
    modules, model = figures(plan, rows, peaks)
    assert modules["vision"].mfu is None and model.mfu is None
    assert modules["language"].mfu == 0.05


@pytest.mark.parametrize(
    ("device", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H200", 989.4),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA GB200", 2500.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA RTX A1000 Laptop GPU", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        (None, None),
    ],
)
def test_known_gpus_have_a_peak_in_bf16(
    device: str | None, tera: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PEAK, raising=False)
    assert peak_flops(device, "bf16") == (None if tera is None else tera * 1e12)
    assert peak_flops(device, "fp32") is None
    monkeypatch.setenv(PEAK, "1.5")
    assert peak_flops(device, "fp32") == 1.5e12


@pytest.mark.parametrize("said", ["fast", "0", "nan"])
def test_a_peak_that_is_none_is_refused(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PEAK, said)
    with pytest.raises(MimoError, match=f"{PEAK}={said}: expected the TFLOP/s"):
        mimo_core.pretrain("demo")
