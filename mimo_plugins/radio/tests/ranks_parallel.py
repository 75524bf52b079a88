"""What the tests run on two ranks; results go back as JSON values."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from mimo_plugin_radio.plugin import describe_module
from radio_tiny import tiny_module
from ranks_common import build_model, largest_gap, make_groups, random_batch, sharded_state

from mimo_core import Grid

SHAPES = [
    {"projector": projector, "resolution": resolution}
    for projector in ("affine", "mlp")
    for resolution in ("fixed", "dynamic")
]


def two_ranks(platform: Any) -> dict[str, Any]:
    """tp 2 against tp 1 of the same weights, and where parameters lie on both."""
    groups = make_groups({"whole": Grid(dp=2), "vision": Grid(tp=2)}, platform)
    cases: list[dict[str, Any]] = [
        {},
        {"projector": "mlp", "position_crop": True},
        {"resolution": "dynamic"},
    ]
    return {
        "compared": [_tensor_parallel(options, groups, platform) for options in cases],
        "weights": [_weights(options, groups, platform) for options in SHAPES],
    }


def _tensor_parallel(
    options: dict[str, Any], groups: dict[str, Any], platform: Any
) -> dict[str, Any]:
    whole = build_model(tiny_module(**options), groups["whole"], platform)
    split = build_model(tiny_module(**options, tp=2), groups["vision"], platform)
    rank = groups["vision"].tp.rank()
    full = dict(whole.named_parameters())
    with torch.no_grad():
        for parameter in full.values():
            parameter.add_(0.1 * torch.randn_like(parameter))
            # Tensor-parallel ranks draw their weights from states of their own.
            dist.broadcast(parameter, src=0)

    def part(name: str, value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        """This rank's part of the whole model's ``value``."""
        assert name in full
        if not getattr(parameter, "tensor_model_parallel", False):
            return value
        return value.chunk(2, dim=parameter.partition_dim)[rank]

    with torch.no_grad():
        for name, parameter in split.named_parameters():
            parameter.copy_(part(name, full[name], parameter))
    batch = random_batch([(16, 16)] * 2, whole["tower"].options)
    outputs = []
    for model in (whole, split):
        torch.manual_seed(5)
        outputs.append(model["projector"](model["tower"](**batch)))
    for output in outputs:
        output.square().sum().backward()
    gradients = {
        name: largest_gap(parameter.grad, part(name, full[name].grad, parameter))
        / float(full[name].grad.abs().max())
        for name, parameter in split.named_parameters()
    }
    sharded = {
        name: entry
        for name, entry in sharded_state(split, groups["vision"]).items()
        if isinstance(entry, ShardedTensor)
    }
    return {
        "output": largest_gap(*outputs),
        "shape": list(outputs[1].shape),
        "gradients": gradients,
        "split": sum(value.numel() for value in split.parameters()),
        "whole": sum(value.numel() for value in full.values()),
        "wrongly_saved": [
            name
            for name, value in full.items()
            if list(sharded[name].global_shape)[-value.ndim :] != list(value.shape)
        ],
    }


def _weights(
    options: dict[str, Any], groups: dict[str, Any], platform: Any
) -> list[dict[str, dict[str, int]]]:
    """Parameters of this rank by part and place, held and as described: dp 2, then tp 2."""
    compared = []
    for tp, name in ((1, "whole"), (2, "vision")):
        module = tiny_module(**options, tp=tp)
        held: Counter[str] = Counter()
        for path, parameter in build_model(module, groups[name], platform).named_parameters():
            held[_place(path)] += parameter.numel()
        described: Counter[str] = Counter()
        for weights in describe_module(module).parameters:
            share = tp if "tp" in weights.sharded_over else 1
            assert weights.num_parameters % share == 0
            described[f"{weights.component} {weights.layer}"] += weights.num_parameters // share
        compared.append({"held": dict(held), "described": dict(described)})
    return compared


def _place(path: str) -> str:
    """``part at`` of a parameter, such as ``encoder 0``, from its name."""
    if path.startswith("projector."):
        return "projector last"
    _, found, below = path.partition(".layers.")
    return f"encoder {below.split('.')[0] if found else 'first'}"
