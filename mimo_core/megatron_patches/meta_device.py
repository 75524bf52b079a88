"""Weights that were built without memory get some: megatron's own, with one thing mended."""

from __future__ import annotations

from typing import Any

import torch
from megatron.training.models import dist_utils

_STOCK = dist_utils.to_empty_if_meta_device


def patch_meta_materialization() -> None:
    """Have weights of the meta device stay what they were. Once or more a process, before a model
    is wrapped.

    megatron-core 0.19 (``training/models/dist_utils.py``, ``to_empty_if_meta_device``) puts new
    parameters in their place, of which nothing is known: that a norm's or a router's gradients are
    to be added up over tensor-parallel ranks, which ranks share an expert, that a weight is used
    in two places.
    """
    dist_utils.to_empty_if_meta_device = _materialize


def _materialize(
    module: torch.nn.Module, *, device: torch.device, recurse: bool = True
) -> torch.nn.Module:
    before = dict(module.named_parameters(remove_duplicate=False))
    _STOCK(module, device=device, recurse=recurse)
    first: dict[torch.nn.Parameter, torch.nn.Parameter] = {}
    for name, old in before.items():
        new = module.get_parameter(name)
        if old not in first:
            first[old] = new
            _give(old, new)
        elif new is not first[old]:
            place, _, own = name.rpartition(".")
            setattr(module.get_submodule(place), own, first[old])
    return module


def _give(old: Any, new: Any) -> None:
    for name, value in vars(old).items():
        if name not in vars(new):
            setattr(new, name, value)


__all__ = ["patch_meta_materialization"]
