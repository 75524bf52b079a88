"""A frozen tower behind graphs, where there is no GPU: what they are made of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mimo_plugin_radio import tower
from mimo_plugin_radio.even import OFTEN

from mimo_core.model.cuda_graphs import encoder
from mimo_core.testing import run_ranks

RANK_FUNCTIONS = Path(__file__).with_name("ranks_graphs.py")


def test_pictures_of_one_size_are_captured_when_they_are_a_batch() -> None:
    """And have been one: kernels are planned for each shape of a batch when it first is one."""
    (comings,) = run_ranks(f"{RANK_FUNCTIONS}:comings")
    late, soon = OFTEN + 1, encoder.OFTEN
    assert comings == {"False": [late, soon], "True": [soon, soon]}


def test_bounds_in_a_graph_are_numbers_of_its_kernels() -> None:
    bounds = tower.packed([3, 4, 5], even=False).cu_seqlens_q
    there = tower.written(bounds, bounds.device)
    assert there.dtype == torch.int32
    assert there.tolist() == [0, 3, 7, 12]


@pytest.mark.parametrize("capturing", [False, True])
def test_bounds_are_copied_from_the_host_outside_of_graphs_alone(
    monkeypatch: pytest.MonkeyPatch, capturing: bool
) -> None:
    class OnGpu:
        is_cuda, device = True, torch.device("cpu")

    asked: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    monkeypatch.setattr(tower, "written", lambda *_: asked.append("written"))
    parameters = tower.packed([3, 4], even=False)
    tower._send_bounds(None, (OnGpu(),), {"packed_seq_params": parameters})  # type: ignore[arg-type]
    assert asked == ["written"] * capturing
    assert (parameters.cu_seqlens_q is None) == capturing
