"""The frozen dynamic tower behind its graphs; results go back as JSON values."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from radio_tiny import tiny_module
from ranks_common import build_model, make_groups, random_batch

from mimo_core import Grid
from mimo_core.model.cuda_graphs import layers
from mimo_core.model.cuda_graphs.encoder import TowerGraphs

EVEN, UNEVEN = [(32, 48)] * 3, [(32, 48), (64, 32), (16, 16)]


class Recorded:
    """Stands for a graph: computes again what it was made of."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self.output = torch.full_like(function(), torch.nan)

    def replay(self) -> None:
        self.output.copy_(self._function())


def _tower(module: Any, groups: Any, platform: Any) -> Any:
    tower = build_model(module, groups, platform)["tower"].to(platform.device)
    return tower.requires_grad_(False).eval()


def _graphs(tower: Any, platform: Any, capture: Any) -> TowerGraphs:
    return TowerGraphs(
        tower,
        capture=capture,
        device=platform.device,
        module="vision",
        tower=tower,
    )


def comings(platform: Any) -> dict[str, list[int]]:
    """At which coming of a shape there is a graph, with attention that takes it as a batch late,
    and at once."""
    groups = make_groups({"vision": Grid()}, platform)["vision"]
    found = {}
    for flash in (False, True):
        module = tiny_module(resolution="dynamic", flash_attention=flash, precision="bf16")
        tower = _tower(module, groups, platform)
        graphs = _graphs(tower, platform, Recorded)
        found[str(flash)] = [
            _until_captured(graphs, random_batch(sizes, tower.options)) for sizes in (EVEN, UNEVEN)
        ]
    return found


def _until_captured(graphs: TowerGraphs, batch: dict[str, Any]) -> int:
    before = len(graphs)
    for coming in range(1, 20):
        graphs(batch)
        if len(graphs) > before:
            return coming
    return 0


def alike(platform: Any, flash: bool, resolution: str) -> dict[str, Any]:
    """Rows of two towers with the same weights, one behind graphs, of twelve comings of two shapes
    each: always other pixels."""
    layers.prepare_generators(platform)
    groups = make_groups({"vision": Grid()}, platform)["vision"]
    options = {"flash_attention": True} if flash else {}
    module = tiny_module(
        resolution=resolution, hidden_size=160, max_image_size=64, precision="bf16", **options
    )
    plain, kept = (_tower(module, groups, platform) for _ in range(2))
    kept.load_state_dict(plain.state_dict())
    graphs = _graphs(kept, platform, partial(layers.capture, platform))
    found, drawn = [], []
    shapes = (EVEN, UNEVEN) if resolution == "dynamic" else ([(16, 16)] * 3, [(16, 16)] * 2)
    for coming in range(12):
        for sizes in shapes:
            batch = {
                name: (value + coming).to(platform.device)
                if isinstance(value, torch.Tensor)
                else value
                for name, value in random_batch(sizes, plain.options).items()
            }
            with torch.no_grad():
                drawn.append(plain(**batch))
            found.append(graphs(batch))
    pairs = list(zip(found, drawn, strict=True))
    return {
        "graphs": len(graphs),
        "equal": [torch.equal(*pair) for pair in pairs],
        "apart": max(float((one.float() - two.float()).abs().max()) for one, two in pairs),
        "unlike": len({float(one.float().sum()) for one in drawn}),
    }
