"""Which forwards of a fixed tower are kept and replayed (``cuda_graph_impl`` of an encoder).

Where there is no GPU, what stands for a graph computes again what it was made of.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mimo_core import Grid, ModuleConfig, TrainingConfig
from mimo_core.model.cuda_graphs import encoder
from mimo_core.model.cuda_graphs.encoder import MOST, OFTEN, TowerGraphs, asked_for
from mimo_core.testing import raises_code, run_ranks

from ..helpers.paths import RANK_FUNCTIONS

CPU = torch.device("cpu")
RANK_FUNCTIONS = RANK_FUNCTIONS / "encoder_cuda_graphs.py"


class Recorded:
    """What a function gave, but for its numbers, which every replay writes."""

    def __init__(self, function: Callable[[], torch.Tensor]) -> None:
        self._function = function
        self.output = torch.full_like(function(), torch.nan)

    def replay(self) -> None:
        self.output.copy_(self._function())


class Tower:
    """Counts its calls, and remembers what was given to it last."""

    def __init__(self) -> None:
        self.weight = torch.tensor([2.0], requires_grad=True)
        self.calls = 0
        self.given: dict[str, Any] = {}
        self.gradients = False

    def __call__(self, **given: Any) -> torch.Tensor:
        self.calls += 1
        self.given = given
        self.gradients = torch.is_grad_enabled()
        return given["x"].float() * self.weight


def make(tower: Any = None, device: torch.device = CPU, **changes: Any) -> TowerGraphs:
    tower = tower or Tower()
    given = {"capture": Recorded, "device": device, "module": "vision", "tower": tower}
    return TowerGraphs(tower, **{**given, **changes})


def captures(*batches: dict[str, Any], **changes: Any) -> int:
    """Graphs after these batches."""
    graphs = make(**changes)
    for batch in batches:
        graphs(batch)
    return len(graphs)


def test_a_shape_is_captured_when_it_has_come_often() -> None:
    tower = Tower()
    graphs = make(tower)
    for time in range(1, OFTEN + 3):
        x = torch.full((2, 3), float(time))
        assert torch.equal(graphs({"x": x}), 2 * x)
        assert len(graphs) == (time >= OFTEN)
        assert (tower.given["x"] is x) == (time < OFTEN), "a graph reads tensors of its own"
        assert torch.equal(x, torch.full((2, 3), float(time)))
        assert not tower.gradients, "what is compiled for the first calls is what is captured"


def test_rows_of_a_replay_stay_what_they_are() -> None:
    graphs = make()
    rows = [graphs({"x": torch.full((2,), float(time))}) for time in range(OFTEN + 2)]
    assert [each.tolist() for each in rows] == [[2.0 * time] * 2 for time in range(OFTEN + 2)]
    assert not any(each.requires_grad for each in rows)


def test_a_graph_is_of_shapes_types_and_values() -> None:
    plain = {"x": torch.zeros(2), "sizes": ((2, 3), (4, 5)), "flag": True, "none": None}
    others = [
        {**plain, **change}
        for change in (
            {"x": torch.zeros(3)},
            {"x": torch.zeros(2, 1)},
            {"x": torch.zeros(2, dtype=torch.float64)},
            {"sizes": ((2, 3), (4, 6))},
            {"flag": 1},
            {"none": 0},
        )
    ]
    graphs = make()
    for batch in [plain] * OFTEN + [other for other in others for _ in range(OFTEN - 1)]:
        graphs(batch)
    assert len(graphs) == 1
    assert torch.equal(graphs({**plain, "sizes": [[2, 3], [4, 5]]}), torch.zeros(2))
    for count, other in enumerate(others, start=2):
        graphs(other)
        assert len(graphs) == count


@pytest.mark.parametrize(
    "value",
    [{1, 2}, {"a": 1}, np.zeros(2), object(), [torch.zeros(1)], SimpleNamespace(a=1)],
    ids=lambda value: type(value).__name__,
)
def test_what_may_change_unseen_is_never_captured(value: Any) -> None:
    assert captures(*[{"x": torch.zeros(2), "more": value}] * (OFTEN + 1)) == 0


def test_tensors_elsewhere_are_never_captured() -> None:
    here, there = torch.device("meta"), torch.zeros(2)
    assert captures(*[{"x": there}] * (OFTEN + 1), device=here) == 0
    both = {"x": torch.zeros(2, device=here), "y": there}
    graphs = make(SimpleNamespace(), device=here)
    assert graphs._key(both) is None
    assert graphs._key({"x": both["x"]}) is not None


def test_no_more_than_the_most_are_captured() -> None:
    tower = Tower()
    graphs = make(tower)
    for length in range(1, MOST + 3):
        for _ in range(OFTEN):
            rows = graphs({"x": torch.ones(length)})
        assert rows.tolist() == [2.0] * length
        assert len(graphs) == min(length, MOST)
    x = torch.ones(MOST + 2)
    graphs({"x": x})
    assert tower.given["x"] is x


def test_shapes_without_end_are_not_remembered_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encoder, "REMEMBERED", 3)
    graphs = make()
    for length in (1, 1, 2, 3, 4, 1, 1, 4, 4):
        graphs({"x": torch.ones(length)})
        assert len(graphs._times) <= 3
    assert len(graphs) == 1, "of 4, which came thrice since; 1 was forgotten between"


def test_nothing_is_captured_before_the_tower_has_settled() -> None:
    class Settling(Tower):
        def settled(self, x: torch.Tensor, size: int) -> bool:
            return self.calls >= OFTEN + 1 and size == 2 and len(x) == 2

    tower = Settling()
    graphs = make(tower)
    found = []
    for _ in range(OFTEN + 3):
        graphs({"x": torch.ones(2), "size": 2})
        found.append(len(graphs))
    assert found == [0] * (OFTEN + 1) + [1] * 2


def test_a_tower_that_cannot_be_captured_is_told_with_the_way_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(_function: Any) -> Any:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nSearch")

    graphs = make(capture=fails)
    batch = {"x": torch.zeros(2)}
    for _ in range(OFTEN - 1):
        graphs(batch)
    cause = "CUDA error: operation not permitted when stream is capturing"
    with raises_code("megatron.cuda-graphs", module="vision", tower="Tower", cause=cause) as caught:
        graphs(batch)
    assert caught.value.text.startswith("modules.vision.megatron.cuda_graph_impl: ")
    assert capsys.readouterr().out == ""


def test_the_log_tells_what_is_captured(capsys: pytest.CaptureFixture[str]) -> None:
    captures(*[{"x": torch.zeros(2, 3), "size": 4}] * (OFTEN + 2))
    told = capsys.readouterr().out.splitlines()
    start = f"vision: captured its tower as CUDA graph 1 of at most {MOST} (x [2, 3]) in "
    assert [line.startswith(start) for line in told] == [True]


@pytest.mark.parametrize(
    ("name", "platform", "fields", "asked"),
    [
        ("vision", "cuda", {"cuda_graph_impl": "local"}, True),
        ("vision", "cuda", {"cuda_graph_impl": "none"}, False),
        ("vision", "cuda", {}, False),
        ("vision", "cpu", {"cuda_graph_impl": "local"}, False),
        ("language", "cuda", {"cuda_graph_impl": "local"}, False),
    ],
)
def test_an_encoder_asks_for_it_on_gpus(
    name: str, platform: str, fields: dict[str, Any], asked: bool
) -> None:
    train = TrainingConfig(
        iterations=1, micro_batch_size=1, global_batch_size=1, sequence_length=8, learning_rate=1.0
    )
    module = ModuleConfig(name=name, plugin="eye", grid=Grid(), train=train, megatron=fields)
    machine: Any = SimpleNamespace(name=platform, transformer_engine=False)
    assert asked_for(module, machine) == asked


def test_the_wish_reaches_the_container_and_not_the_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model as the builder makes it, on a machine that captures."""
    monkeypatch.setenv("MIMO_PLATFORM", "cpu")
    (said,) = run_ranks(f"{RANK_FUNCTIONS}:built")
    assert said["prepared"] == 1
    assert said["layers"] == ["none", "none"], "of tower and projector"
    # In training, between steps, and in evaluation; each twice.
    assert said["captured"] == [0, 0, 1, 1, 1, 1]
    assert said["apart"] == 0.0
    assert said["projector"], "learns from what was replayed"


@pytest.mark.gpu
def test_a_tower_that_waits_for_the_gpu_is_told_and_goes_on_without() -> None:
    (said,) = run_ranks(f"{RANK_FUNCTIONS}:waits")
    assert "cannot be captured as a CUDA graph: " in said["said"]
    assert "captur" in said["said"].split("graph: ")[1]
    assert said["after"] == said["before"]
    assert said["stream"], "the current one as before"
    assert said["another"] == [0, 0, 1, 1], "another tower is captured all the same"
    assert said["drawn"] == [True] * 3, "generators are not left as if captured"
