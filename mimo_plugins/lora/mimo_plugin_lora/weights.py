"""Adapters in the map of weights: in no file when they are loaded, merged when they are written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from mimo_core import CheckpointTensor, ModuleConfig, ParamMapping, ParamMappings
from mimo_plugin_lora.names import excess, is_target, numbered, split_key, unmatched
from mimo_plugin_lora.options import options_of, parts_of

if TYPE_CHECKING:
    from torch import Tensor


@attrs.frozen(kw_only=True)
class _Adapter:
    """Of one layer; its weight may be stored in pieces of rows."""

    weights: tuple[int, ...]
    """Places of the pieces among what a rule stores."""
    a: int
    b: tuple[int, ...]


def with_adapters(weights: ParamMappings, module: ModuleConfig) -> ParamMappings:
    """The map of a module whose adapted layers have adapters beside their weights.

    Raises:
        MimoError: a target names none of the weights, or one that is smaller than the rank.
    """
    parts = parts_of(module)
    named = [rule for rule in weights.rules if rule.component in parts]
    error = unmatched(module, (name for rule in named for name in _layers(rule)))
    if error is not None:
        raise error
    rules = (
        _with_adapters(rule, module) if rule.component in parts else rule for rule in weights.rules
    )
    return attrs.evolve(weights, rules=tuple(rules))


def _layers(rule: ParamMapping) -> dict[str, list[tuple[int, str]]]:
    """Places and pieces of the matrices of a rule, by the names of their layers."""
    found: dict[str, list[tuple[int, str]]] = {}
    for at, stored in enumerate(rule.tensors):
        split = split_key(stored.key)
        if split is not None and len(stored.shape) == 2:
            found.setdefault(numbered(split[0], stored.index), []).append((at, split[1]))
    return found


def _with_adapters(rule: ParamMapping, module: ModuleConfig) -> ParamMapping:
    options = options_of(module)
    stored = list(rule.tensors)
    adapters = []
    for name, pieces in _layers(rule).items():
        if not is_target(name, options.targets):
            continue
        shapes = [rule.tensors[at].shape for at, _ in pieces]
        error = excess(module, name, sum(rows for rows, _ in shapes), shapes[0][1])
        if error is not None:
            raise error
        first = len(stored)
        stored.append(CheckpointTensor(key=f"{name}.lora_a", shape=(options.rank, shapes[0][1])))
        for (_, piece), (rows, _columns) in zip(pieces, shapes, strict=True):
            stored.append(CheckpointTensor(key=f"{name}.lora_b{piece}", shape=(rows, options.rank)))
        places = tuple(at for at, _ in pieces)
        adapters.append(_Adapter(weights=places, a=first, b=tuple(range(first + 1, len(stored)))))
    if not adapters:
        return rule
    added = len(stored) - len(rule.tensors)

    def load(files: Sequence[Tensor]) -> Sequence[Tensor | None]:
        return [*rule.load(files), *[None] * added]

    def save(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        merged = list(tensors[: len(rule.tensors)])
        for adapter in adapters:
            for weight, b in zip(adapter.weights, adapter.b, strict=True):
                merged[weight] = merge(
                    merged[weight], tensors[adapter.a], tensors[b], options.scale
                )
        return rule.save(merged)

    return attrs.evolve(rule, tensors=tuple(stored), load=load, save=save)


def merge(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """``weight + scale * B A`` in the weight's precision, computed in fp32.

    Args:
        weight: ``[out, in]``.
        a: ``[rank, in]``.
        b: ``[out, rank]``.
        scale: Of the product.
    """
    return (weight.float() + scale * (b.float() @ a.float())).to(weight.dtype)
