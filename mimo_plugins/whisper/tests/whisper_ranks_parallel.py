"""What the tests run on two ranks; results go back as JSON values."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from mimo_plugin_whisper.plugin import describe_module
from whisper_models import build_model, largest_gap, make_groups, random_batch, sharded_state
from whisper_tiny import tiny_module

from mimo_core import Grid

LENGTHS = (12, 6, 9)


def two_ranks(platform: Any) -> dict[str, Any]:
    """tp 2 and pp 2 against one rank of the same weights, and where parameters lie."""
    groups = make_groups({"whole": Grid(dp=2), "tp": Grid(tp=2), "pp": Grid(pp=2)}, platform)
    affine, mlp = {"stack": 3}, {"projector": "mlp", "projector_hidden_size": 32}
    return {
        "tp": [_tensor_parallel(options, groups, platform) for options in (affine, mlp)],
        "pp": _stages(groups, platform),
        "held": [_held(options, groups, platform) for options in (affine, mlp)],
    }


def _whole(options: dict[str, Any], groups: dict[str, Any], platform: Any) -> Any:
    """A model of one rank, the same on both, no weight at a value that hides its use."""
    whole = build_model(tiny_module(**options), groups["whole"], platform)
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
            dist.broadcast(parameter, src=0)
    return whole


def _tensor_parallel(
    options: dict[str, Any], groups: dict[str, Any], platform: Any
) -> dict[str, Any]:
    whole = _whole(options, groups, platform)
    split = build_model(tiny_module(**options, tp=2), groups["tp"], platform)
    full = dict(whole.named_parameters())

    def part(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        """This rank's part of the whole model's ``value``."""
        if not getattr(parameter, "tensor_model_parallel", False):
            return value
        return value.chunk(2, dim=parameter.partition_dim)[groups["tp"].tp.rank()]

    with torch.no_grad():
        for name, parameter in split.named_parameters():
            parameter.copy_(part(full[name], parameter))
    outputs = [m["projector"](m["tower"](**random_batch(LENGTHS, 8))) for m in (whole, split)]
    for output in outputs:
        output.square().sum().backward()
    sharded = {
        name: entry
        for name, entry in sharded_state(split, groups["tp"]).items()
        if isinstance(entry, ShardedTensor)
    }
    return {
        "output": largest_gap(*outputs) / float(outputs[0].abs().max()),
        "gradients": {
            name: largest_gap(parameter.grad, part(full[name].grad, parameter))
            / float(full[name].grad.abs().max())
            for name, parameter in split.named_parameters()
        },
        "wrongly_saved": [
            name
            for name, value in full.items()
            if list(sharded[name].global_shape)[-value.ndim :] != list(value.shape)
        ],
    }


def _stages(groups: dict[str, Any], platform: Any) -> dict[str, Any]:
    """Two stages, each on its rank, against the whole: rows on the last, gradients on both."""
    whole = _whole({}, groups, platform)
    own = build_model(tiny_module(pp=2), groups["pp"], platform)
    stage = groups["pp"].pp.rank()
    full = dict(whole.named_parameters())
    of_whole = {
        name: re.sub(r"layers\.(\d+)", lambda m: f"layers.{int(m[1]) + stage}", name)
        for name, _ in own.named_parameters()
    }
    with torch.no_grad():
        for name, parameter in own.named_parameters():
            parameter.copy_(full[of_whole[name]])
    batch = random_batch(LENGTHS, 8)
    expected = whole["tower"](**batch)
    expected.square().sum().backward()
    hidden = torch.zeros(sum(LENGTHS), 1, 16)
    gap = 0.0
    if stage == 0:
        output = own["tower"](**batch)
        dist.send(output.detach().contiguous(), dst=1)
        dist.recv(hidden, src=1)
        output.backward(hidden)
    else:
        dist.recv(hidden, src=0)
        del batch["mels"]
        rows = own["tower"](**batch, hidden_states=hidden.requires_grad_())
        gap = largest_gap(rows, expected) / float(expected.abs().max())
        rows.square().sum().backward()
        dist.send(hidden.grad, dst=0)
    learned = dict(own["tower"].named_parameters(prefix="tower"))
    return {
        "output": gap,
        "gradients": {
            of_whole[name]: largest_gap(parameter.grad, full[of_whole[name]].grad)
            / float(full[of_whole[name]].grad.abs().max())
            for name, parameter in learned.items()
        },
        "all": sorted(name for name in full if name.startswith("tower.")),
    }


def _held(options: dict[str, Any], groups: dict[str, Any], platform: Any) -> dict[str, Any]:
    """Parameters of this rank by part and place under tp 2, held and as described."""
    module = tiny_module(**options, tp=2)
    held: Counter[str] = Counter()
    for path, parameter in build_model(module, groups["tp"], platform).named_parameters():
        held[_place(path)] += parameter.numel()
    described: Counter[str] = Counter()
    for weights in describe_module(module).parameters:
        described[f"{weights.component} {weights.layer}"] += weights.num_parameters // (
            2 if "tp" in weights.sharded_over else 1
        )
    return {"held": dict(held), "described": dict(described)}


def _place(path: str) -> str:
    """``part at`` of a parameter, such as ``encoder 0``, from its name."""
    if path.startswith("projector."):
        return "projector last"
    if "final_layernorm" in path:
        return "encoder last"
    _, found, below = path.partition(".layers.")
    return f"encoder {below.split('.')[0] if found else 'first'}"
