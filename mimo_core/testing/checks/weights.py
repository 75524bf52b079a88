"""Weights of Hugging Face directories, where the plugin declares ``weight_map``. On one rank."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from mimo_core.plugins.weight_map import ParamMapping, ParamMappings
from mimo_core.testing.checks.checkpoints import same_model
from mimo_core.testing.checks.gradients import shake
from mimo_core.testing.outcome import Finding, UndeclaredSupportError
from mimo_core.testing.rank_harness import Built, Rig
from mimo_core.testing.weights import read_parts, tensors_as_in_files, unnamed


def named(rig: Rig) -> Iterator[Finding]:
    """The map names every tensor of the checkpoint, once, in its shape."""
    built, weights = rig.whole, _map(rig)
    wrong = unnamed(built.module, weights, built.by_part(), built.groups)
    if wrong:
        yield Finding(
            said=f"{len(wrong)} tensors are in the checkpoint or in param_mappings() of "
            f"{built.module.plugin!r} alone, or of another shape (key, index, shape): "
            f"{'; '.join(wrong[:4])}",
            fix="give each as mimo_core.CheckpointTensor(key=…, shape=…, index=…), its key below "
            "the part",
        )
    main = weights.rules[0].component
    exported = [constant.name for constant in weights.constants if constant.exported]
    for prefix in dict.fromkeys(("", weights.prefix)):
        names = [
            (prefix if rule.component == main else "") + name
            for rule in weights.rules
            for name in rule.files
        ]
        twice = [n for n, c in Counter(names + [prefix + n for n in exported]).items() if c > 1]
        if twice:
            yield Finding(
                said=f"param_mappings() of {built.module.plugin!r} has several tensors of one name "
                f"in files: {', '.join(twice[:3])}",
                fix="a directory holds each name once: give the projector names of its own",
            )
            return


@torch.no_grad()
def there_and_back(rig: Rig) -> Iterator[Finding]:
    """``save`` is the exact inverse of ``load``; a directory that is written is read again."""
    weights = _map(rig)
    for number, rule in enumerate(weights.rules):
        wrong = list(_inverse(rig, rule, number))
        yield from wrong
        if wrong:
            return
    if any(_fresh(rule) for rule in weights.rules):
        return  # no directory holds what stands beside its weights
    first, second = rig.build(seed=5), rig.build(seed=6)
    shake(first)
    with tempfile.TemporaryDirectory() as folder:
        tensors = tensors_as_in_files(first.module, weights, first.by_part(), first.groups)
        plain = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
        save_file(plain, Path(folder) / "model.safetensors")
        read_parts(second.module, weights, second.by_part(), second.groups, Path(folder))
    yield from same_model(first, second, "writing a directory and reading it")


def _inverse(rig: Rig, rule: ParamMapping, seed: int) -> Iterator[Finding]:
    names = ", ".join(rule.files)
    files = _random(list(rule.files.values()), seed)
    loaded = rule.load(files)
    fresh = [
        torch.zeros(one.shape) if tensor is None else tensor
        for one, tensor in zip(rule.tensors, loaded, strict=True)
    ]
    stored = _random([one.shape for one in rule.tensors], seed)
    saved = list(rule.save(stored))
    shapes = [tuple(tensor.shape) for tensor in saved]
    if shapes != [tuple(shape) for shape in rule.files.values()]:
        yield Finding(
            said=f"save of the rule for {names} of {rig.bench.name!r} gives shapes {shapes}, but "
            f"files tells {list(rule.files.values())}",
            fix="give the tensors in the order of files, in their shapes",
        )
        return
    loops = [("save(load(x))", list(rule.save(fresh)), files)]
    if not _fresh(rule):
        loops.append(("load(save(x))", list(rule.load(saved)), stored))
    for loop, got, due in loops:
        if len(got) != len(due) or not all(map(_same, got, due)):
            yield Finding(
                said=f"{loop} is not x in the rule for {names} of {rig.bench.name!r}",
                fix="let one conversion undo the other exactly: move numbers, compute nothing",
            )
            return


def _fresh(rule: ParamMapping) -> bool:
    """It has tensors that no file holds, such as an adapter's."""
    files = [torch.zeros(shape) for shape in rule.files.values()]
    return any(tensor is None for tensor in rule.load(files))


def _random(shapes: list[tuple[int, ...]], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _map(rig: Rig) -> ParamMappings:
    built: Built = rig.whole
    plugin = built.module.plugin
    if not rig.bench.host.implements("param_mappings", plugin):
        raise UndeclaredSupportError("weights: the plugin has no hook param_mappings()")
    weights: ParamMappings = rig.bench.host.call_hook("param_mappings", plugin, module=built.module)
    return weights
