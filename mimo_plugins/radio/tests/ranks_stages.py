"""Pipeline stages against the whole encoder; results go back as JSON values.

For two or four ranks: grids that do not fill them are left out. Runs on GPUs too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
from mimo_plugin_radio.plugin import build_submodule
from radio_tiny import LANGUAGE_WIDTH, tiny_module
from ranks_common import largest_gap, make_groups, random_batch

from mimo_core import Grid
from mimo_core.model.encoder_module import TOWER, EncoderSubmodule, container_spec

LAYERS = 4
SQUARES, RECTANGLES = [(16, 16)] * 2, [(16, 24), (8, 8), (40, 8)]
GRIDS = {"pp 2": {"pp": 2}, "tp 2 x pp 2": {"tp": 2, "pp": 2}, "pp 4": {"pp": 4}}


def stages(platform: Any, folder: str) -> dict[str, Any]:
    """Every case by name, on this rank; ``folder`` is for checkpoints."""
    world = dist.get_world_size()
    grids = {
        name: Grid(dp=world // Grid(**sizes).size, **sizes)
        for name, sizes in GRIDS.items()
        if Grid(**sizes).size <= world
    }
    seeded = Grid(tp=2, dp=world // 2)
    groups = make_groups({"whole": Grid(dp=world), "vision": seeded, **grids}, platform)
    cases: list[tuple[str, list[tuple[int, int]], dict[str, Any]]] = [
        ("fixed", SQUARES, {}),
        ("dynamic", RECTANGLES, {"resolution": "dynamic", "projector": "mlp"}),
    ]
    found = {}
    for resolution, sizes, options in cases:
        place = f"{folder}/{resolution}"
        whole = Case(place, groups["whole"], platform, {}, options)
        for parameter in whole.container.parameters():
            dist.broadcast(parameter.data, src=0)
        whole.save("whole")
        for name in grids:
            split = Case(place, groups[name], platform, GRIDS[name], options)
            split.load("whole")
            found[f"{resolution}, {name}"] = _compare(name, split, whole, sizes)
    return found


def _compare(name: str, split: Case, whole: Case, sizes: list[tuple[int, int]]) -> dict[str, Any]:
    """Rows and gradients with pictures and without; weights after a round trip."""
    empty = split.step(None)
    zeros = [p.grad is None or not p.grad.any() for p in split.container.parameters()]
    rows, expected = split.step(sizes), whole.step(sizes)
    assert expected is not None
    split.save(name)
    full = {key: value.grad for key, value in whole.container.named_parameters()}
    before = {key: value.clone() for key, value in whole.container.named_parameters()}
    with torch.no_grad():
        for parameter in whole.container.parameters():
            parameter.zero_()
    whole.load(name)
    return {
        "empty": None if empty is None else list(empty.shape),
        "zeros": all(zeros),
        "rows": None if rows is None else largest_gap(rows, expected),
        "gradients": {
            key: largest_gap(parameter.grad, split.part(full[key], parameter))
            / float(full[key].abs().max())
            for key, parameter in split.named()
        },
        "held": [key for key, _ in split.named()],
        "all": sorted(full),
        "returned": [
            key for key, value in whole.container.named_parameters() if (value != before[key]).any()
        ],
    }


class Case:
    """This rank's stage of an encoder over some groups."""

    def __init__(
        self, place: str, groups: Any, platform: Any, sizes: dict[str, int], options: dict[str, Any]
    ) -> None:
        self.module = tiny_module(**options, **sizes, layers=LAYERS)
        self.groups = groups
        self.first = groups.pp.rank() == 0
        self.last = groups.pp.rank() == groups.pp.size() - 1
        self._place = place
        self._device = platform.device
        parts = build_submodule(self.module, groups, platform)
        width = self.module.options.output_width
        spec = container_spec(parts, groups, LANGUAGE_WIDTH, width, "vision")
        self.container = EncoderSubmodule.from_spec(
            spec, is_first_stage=self.first, is_last_stage=self.last
        )
        self.container.to(self._device)
        self._stage = P2PCommunicator(groups.pp, parts.config)

    def step(self, sizes: list[tuple[int, int]] | None) -> torch.Tensor | None:
        """One microbatch of pictures of these sizes, or none; the rows on the last stage."""
        inputs = None
        if sizes is not None:
            batch = random_batch(sizes, self.module.options)
            if not self.first:
                batch = {k: v for k, v in batch.items() if k not in ("images", "patches")}
            inputs = {
                TOWER: {
                    name: value.to(self._device) if isinstance(value, torch.Tensor) else value
                    for name, value in batch.items()
                }
            }
        self.container.zero_grad()
        hidden = self._stage.recv_forward((1, 1, 1), is_first_stage=self.first)
        output = self.container(encoder_inputs=inputs, hidden_states=hidden)
        self._stage.send_forward(output, is_last_stage=self.last)
        gradient = self._stage.recv_backward((1, 1, 1), is_last_stage=self.last)
        if self.last and output is not None:
            output.square().sum().backward()
        elif output is not None and output.requires_grad:
            output.backward(gradient)
        self._stage.send_backward(
            None if hidden is None else hidden.grad, is_first_stage=self.first
        )
        return output if self.last else None

    def named(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """This stage's parameters under the names of the whole encoder."""
        before = self.groups.pp.rank() * LAYERS // self.groups.pp.size()
        for name, parameter in self.container.named_parameters():
            yield (
                re.sub(r"layers\.(\d+)", lambda m: f"layers.{before + int(m[1])}", name),
                parameter,
            )

    def part(self, value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        """This rank's part of the whole encoder's ``value``."""
        if not getattr(parameter, "tensor_model_parallel", False):
            return value
        return value.chunk(self.groups.tp.size(), parameter.partition_dim)[self.groups.tp.rank()]

    def save(self, name: str) -> None:
        """A checkpoint as runs write it, by layers of the whole encoder."""
        dist_checkpointing.save(self.container.sharded_state_dict(), self._folder(name))

    def load(self, name: str) -> None:
        state = dist_checkpointing.load(self.container.sharded_state_dict(), self._folder(name))
        self.container.load_state_dict(state)

    def _folder(self, name: str) -> str:
        folder = Path(f"{self._place}-{name}")
        folder.mkdir(parents=True, exist_ok=True)
        dist.barrier()
        return str(folder)
