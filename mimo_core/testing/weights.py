"""Weights of a module's parts on one rank, from a directory and by the names of one.

For comparing a module with transformers' model of the same weights: save that one with
``save_pretrained``, read it here, and compare gradients by the names that both have in files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from megatron.core.transformer.utils import sharded_state_dict_default
from torch import Tensor, nn

from mimo_core.checkpoint.keys import key_of, part_prefix
from mimo_core.contract import FreezePart, ModuleConfig
from mimo_core.errors import MimoError, Problem
from mimo_core.plugins.weight_map import ParamMappings
from mimo_core.weights.compare import match
from mimo_core.weights.load import load_weights, sharded_tensors, slice_of

Parts = Mapping[FreezePart, nn.Module]


def read_parts(
    module: ModuleConfig, weights: ParamMappings, parts: Parts, groups: Any, directory: Path
) -> None:
    """Give the parts the weights of a directory, as a run begins with them.

    Args:
        module: Whose parts they are.
        weights: What the plugin's ``weight_map`` gives.
        parts: ``encoder`` (the tower), ``projector``, ``language``: any of them.
        groups: The module's process groups.
        directory: Of safetensors.

    Raises:
        MimoError: the directory does not fit; all its mistakes.
    """
    held = match(weights, directory)
    if held.mistakes:
        raise MimoError.of(
            Problem(mistake, code="weights.mismatch", values={"directory": str(directory)})
            for mistake in held.mistakes
        )
    load_weights(_state(module, parts, groups), {module.name: weights}, {module.name: held})


def tensors_as_in_files(
    module: ModuleConfig, weights: ParamMappings, parts: Parts, groups: Any
) -> dict[str, Tensor]:
    """The parts' tensors by their names in files, where one rank has all of them.

    Args: as of :func:`read_parts`.
    """
    stored: dict[Any, Tensor] = {}
    for item in sharded_tensors(_state(module, parts, groups)):
        # A gated layer's halves are two tensors with one place.
        at = item.prepend_axis_num
        place, shape = (item.key, tuple(item.global_offset[:at])), item.global_shape[at:]
        whole = stored.setdefault(place, torch.empty(shape, dtype=item.dtype))
        whole[slice_of(item)] = item.data.detach()
    return {
        name: tensor.clone()
        for rule in weights.rules
        if rule.component in parts
        for name, tensor in zip(
            rule.files,
            rule.save([stored[key_of(module.name, rule, one), one.index] for one in rule.tensors]),
            strict=True,
        )
    }


def gradients_as_in_files(
    module: ModuleConfig, weights: ParamMappings, parts: Parts, groups: Any
) -> dict[str, Tensor]:
    """The gradients by the names that their parameters have in files; zeros where there is none.

    Args: as of :func:`read_parts`. Buffers keep their values. The parameters themselves are lost.
    """
    put_gradients(parts.values())
    return tensors_as_in_files(module, weights, parts, groups)


@torch.no_grad()
def put_gradients(models: Any) -> None:
    """Put every parameter's gradient in its own place: what names parameters names them then."""
    for model in models:
        for parameter in model.parameters():
            parameter.copy_(torch.zeros(()) if parameter.grad is None else parameter.grad)


def unnamed(module: ModuleConfig, weights: ParamMappings, parts: Parts, groups: Any) -> list[str]:
    """Tensors that the checkpoint or the weight map alone has, or other shapes of; on any rank, of
    the parts that it has. Empty where a plugin's map is whole."""
    saved = {
        (item.key, tuple(item.global_offset[:at]), tuple(item.global_shape[at:]))
        for item in sharded_tensors(_state(module, parts, groups))
        for at in [item.prepend_axis_num]
    }
    named = set(_named(module, weights, parts))
    return sorted(str(one) for one in saved ^ named)


def _named(module: ModuleConfig, weights: ParamMappings, parts: Parts) -> Iterator[tuple[Any, ...]]:
    for rule in weights.rules:
        for stored in rule.tensors:
            if rule.component in parts:
                yield key_of(module.name, rule, stored), stored.index, stored.shape


def _state(module: ModuleConfig, parts: Parts, groups: Any) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for part, model in parts.items():
        # Of a plain torch module too, as in a checkpoint.
        state |= sharded_state_dict_default(
            model, part_prefix(module.name, part), metadata={"dp_cp_group": groups.dp_cp}
        )
    return state
