"""The stock 1F1B schedule over modules of different grids: the same step as in one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mimo_core.contract import LANGUAGE
from mimo_core.testing import run_ranks

from ..helpers.paths import RANK_FUNCTIONS
from .rank_functions.pipeline_communicator import (
    LENGTH,
    WIDTH,
    EncoderStage,
    LanguageStage,
    media,
    text,
)

EPS = torch.finfo(torch.float32).eps / 2
SAMPLES, MICROBATCHES, LAYERS = 4, 5, 4
"""At most, in the cases below: of a microbatch, of a step, and on the way of a row to the loss."""
ROUNDINGS = 2 * (SAMPLES * MICROBATCHES * LENGTH + 2 * LAYERS * (WIDTH + 2))
"""Rounding errors in an entry of a gradient, in units of ``EPS`` times the tensor's largest entry.

An entry is a sum over samples, microbatches and positions. Each term passes ``LAYERS`` products of
width ``WIDTH``, a bias and a tanh, forward and backward. Both sides round, hence the factor 2.
Against float64 one process is off by at most 50 of these 216. Losing the text of one sample changes
the language model's gradients by millions."""

CASES: dict[str, dict[str, Any]] = {
    # Encoders of one and of two stages beside two of the language model; in the third microbatch
    # nobody has a picture, in the last neither has anybody a sound.
    "depths": {
        "grids": {"vision": {}, "audio": {"pp": 2}, LANGUAGE: {"pp": 2}},
        "counts": {
            "vision": [[1, 2], [0, 3], [0, 0], [2, 1], [0, 0]],
            "audio": [[2, 0], [1, 1], [1, 2], [0, 4], [0, 0]],
        },
        "frozen": [],
    },
    "replicas": {
        "grids": {"vision": {"dp": 2}, "audio": {}, LANGUAGE: {"pp": 2}},
        "counts": {
            "vision": [[3, 0, 1, 1], [0, 0, 2, 5], [1, 2, 0, 0], [2, 2, 2, 2]],
            "audio": [[1, 1, 1, 1], [0, 3, 0, 1], [0, 0, 0, 0], [2, 0, 0, 1]],
        },
        "frozen": [],
    },
    "frozen": {
        "grids": {"vision": {}, "audio": {"pp": 2}, LANGUAGE: {"pp": 2}},
        "counts": {"vision": [[1], [2], [1], [0]], "audio": [[2], [0], [1], [1]]},
        "frozen": ["vision"],
    },
    # One computes ahead by more microbatches than it has, its two stages alike.
    "ahead": {
        "grids": {"vision": {}, "audio": {"pp": 2}, LANGUAGE: {"pp": 2}},
        "counts": {
            "vision": [[1, 2], [0, 3], [0, 0], [2, 1], [0, 0]],
            "audio": [[2, 0], [1, 1], [1, 2], [0, 4], [0, 0]],
        },
        "frozen": [],
        "ahead": {"vision": 1, "audio": 4},
    },
    "frozen stages": {
        "grids": {"vision": {}, "audio": {"pp": 2}, LANGUAGE: {"pp": 2}},
        "counts": {"vision": [[1], [2], [1], [0]], "audio": [[2], [0], [1], [1]]},
        "frozen": ["audio"],
    },
}
EVALUATIONS, STEPS, ONE_STEP, ONE_EVALUATION = (1, 4), (2, 3), 5, 0
"""Indices into each case's runs; see ``ranks_pipeline.everything``."""


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    """What every one of five ranks has done: one launch."""
    file = RANK_FUNCTIONS / "pipeline_communicator.py"
    return run_ranks(f"{file}:everything", ranks=5, timeout=1800, cases=CASES)


class InOneProcess:
    """The same model and microbatches by torch alone."""

    def __init__(self, name: str, microbatches: int | None = None) -> None:
        case = CASES[name]
        counts = case["counts"]
        depth = {module: sizes.get("pp", 1) for module, sizes in case["grids"].items()}
        self.stages: dict[tuple[str, int], torch.nn.Module] = {
            (module, stage): LanguageStage(stage, stage == depth[module] - 1)
            if module == LANGUAGE
            else EncoderStage(module, stage, stage == depth[module] - 1)
            for module in depth
            for stage in range(depth[module])
        }
        for (module, _), stage in self.stages.items():
            stage.requires_grad_(module not in case["frozen"])
        self.losses = []
        for number in range(microbatches or len(counts["vision"])):
            own = {encoder: counts[encoder][number] for encoder in counts}
            rows = {}
            for encoder in counts:
                hidden = media(encoder, number, own[encoder])
                for stage in range(depth[encoder]):
                    hidden = self.stages[encoder, stage](hidden)
                rows[encoder] = hidden
            first, second = self.stages[LANGUAGE, 0], self.stages[LANGUAGE, 1]
            samples = len(own["vision"])
            loss = second(first(first.embed(text(number, samples), rows, own))).sum()
            loss.backward()
            self.losses.append(loss.item())


PLACES = {
    "depths": [("vision", 0), ("audio", 0), ("audio", 1), (LANGUAGE, 0), (LANGUAGE, 1)],
    "replicas": [("vision", 0), ("vision", 0), ("audio", 0), (LANGUAGE, 0), (LANGUAGE, 1)],
    "ahead": [("vision", 0), ("audio", 0), ("audio", 1), (LANGUAGE, 0), (LANGUAGE, 1)],
    "frozen": [("vision", 0), ("audio", 0), ("audio", 1), (LANGUAGE, 0), (LANGUAGE, 1)],
    "frozen stages": [("vision", 0), ("audio", 0), ("audio", 1), (LANGUAGE, 0), (LANGUAGE, 1)],
}
"""(module, stage) of every rank."""


def assert_gradients(name: str, ranks: list[dict[str, Any]], run: int, one: InOneProcess) -> None:
    for place, stage in one.stages.items():
        holders = [rank for rank, at in enumerate(PLACES[name]) if at == place]
        for parameter, tensor in stage.named_parameters():
            parts = [ranks[rank][name]["runs"][run]["gradients"][parameter] for rank in holders]
            if tensor.grad is None:
                assert parts == [None] * len(holders), place
                continue
            # Data-parallel replicas hold their own samples' part; DDP would add them up.
            whole = sum(torch.tensor(part) for part in parts if part is not None)
            largest = tensor.grad.abs().max().item()
            torch.testing.assert_close(
                whole, tensor.grad, rtol=0, atol=ROUNDINGS * EPS * largest, msg=f"{place}"
            )


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_has_the_gradient_of_one_process(ranks, name):
    for run in STEPS:
        assert_gradients(name, ranks, run, InOneProcess(name))


@pytest.mark.parametrize("name", CASES)
def test_fewer_microbatches_than_stages_make_the_same_step(ranks, name):
    assert_gradients(name, ranks, ONE_STEP, InOneProcess(name, microbatches=1))


@pytest.mark.parametrize("name", CASES)
def test_losses_are_those_of_one_process_in_training_and_evaluation(ranks, name):
    told = [run["losses"] for run in ranks[-1][name]["runs"]]
    for run in (*EVALUATIONS, *STEPS):
        assert told[run] == pytest.approx(InOneProcess(name).losses, rel=1e-5)
    for run in (ONE_STEP, ONE_EVALUATION):
        assert told[run] == pytest.approx(InOneProcess(name, 1).losses, rel=1e-5)
    for rank in ranks[:-1]:
        assert not any(run["losses"] for run in rank[name]["runs"])


@pytest.mark.parametrize("name", CASES)
def test_evaluation_makes_no_gradient(ranks, name):
    for rank in ranks:
        for run in (ONE_EVALUATION, *EVALUATIONS):
            assert not any(rank[name]["runs"][run]["gradients"].values())
            assert "B" not in rank[name]["runs"][run]["events"]


def test_last_stages_of_encoders_take_turns_alike_whatever_their_depth(ranks):
    """Stages count from the sink: a one-stage encoder warms up as long as a two-stage one's end."""
    stages = [rank["depths"]["stages"] for rank in ranks]
    assert stages == [[1, 4], [0, 4], [1, 4], [2, 4], [3, 4]]
    orders = [rank["depths"]["runs"][STEPS[0]]["events"] for rank in ranks]
    assert orders == [
        "FFFBFBFBBB",
        "FFFFBFBBBB",
        "FFFBFBFBBB",
        "FFBFBFBFBB",
        "FBFBFBFBFB",
    ]


def test_an_encoder_computes_ahead_of_the_schedule(ranks):
    orders = [rank["ahead"]["runs"][STEPS[0]]["events"] for rank in ranks]
    assert orders == ["FFFFBFBBBB", "FFFFFBBBBB", "FFFFFBBBBB", "FFBFBFBFBB", "FBFBFBFBFB"]


def test_a_frozen_encoder_runs_forward_only_beside_one_that_learns(ranks):
    events = [rank["frozen"]["runs"][STEPS[0]]["events"] for rank in ranks]
    assert events[0] == "FFFF"
    assert events[2].count("B") == 4
    events = [rank["frozen stages"]["runs"][STEPS[0]]["events"] for rank in ranks]
    assert events[1] == events[2] == "FFFF"
    assert events[0].count("B") == 4
