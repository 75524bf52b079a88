"""What two runs did to every weight in each step, read from their checkpoints."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mimo_core.checkpoint.directory import checkpoint_path
from mimo_core.checkpoint.keys import module_prefix, optimizer_prefix, part_prefix
from mimo_core.checkpoint.reader import Checkpoint
from mimo_core.contract import FreezePart
from mimo_core.verify.compare import Row, relative

_LEAST = 2.0**-8
"""Share of its module's gradient by which a parameter's is judged at least: of what is exactly 0,
such as the gradient of attention's key bias, rounding alone is left."""


class Pair(NamedTuple):
    """A checkpoint of each run after the same step."""

    judge: Checkpoint
    layout: Checkpoint


def compare_weights(
    modules: Mapping[str, Collection[FreezePart]], judge: Path, layout: Path, steps: int
) -> tuple[list[Row], dict[str, bool]]:
    """Compare every weight of every module after every step, and its gradients so far.

    Args:
        modules: The parts that are frozen, by module.
        judge: The judge's checkpoints, of iteration 0 too.
        layout: The layout's, from iteration 1 on.
        steps: Iterations.

    Returns:
        Rows for each step and module, and for each frozen part whether no bit of it changed.
    """
    initial = Checkpoint(checkpoint_path(judge, 0))
    before = Pair(initial, initial)
    rows: list[Row] = []
    for step in range(1, steps + 1):
        after = Pair(*(Checkpoint(checkpoint_path(run, step)) for run in (judge, layout)))
        for module in modules:
            rows += _rows(step, module, before, after)
        before = after
    frozen = {
        f"{module}.{word}": all(
            torch.equal(last.read(key, ()), initial.read(key, ()))
            for key in _keys(initial, part_prefix(module, word))
            for last in before
        )
        for module, words in modules.items()
        for word in words
    }
    return rows, frozen


def _keys(checkpoint: Checkpoint, prefix: str) -> list[str]:
    return sorted(key for key in checkpoint.keys if key.startswith(prefix))


def _rows(step: int, module: str, before: Pair, after: Pair) -> Iterator[Row]:
    moments = f"{optimizer_prefix(module)}state.exp_avg."
    changes, gradients = [], {}
    for key in _keys(after.judge, module_prefix(module)):
        pairs = zip(before, after, strict=True)
        changes.append(_norms(*(now.read(key, ()) - was.read(key, ()) for was, now in pairs)))
        if moments + key in after.judge.keys:
            gradients[key] = _norms(*(now.read(moments + key, ()) for now in after))
    whole = _together(changes)
    yield Row(
        step=step,
        quantity="parameter change",
        module=module,
        judge=whole.judge,
        layout=whole.layout,
        difference=relative(whole.difference, whole.judge),
    )
    if gradients:
        least = _LEAST * _together(gradients.values()).judge
        worst = max(
            gradients,
            key=lambda key: relative(gradients[key].difference, gradients[key].judge + least),
        )
        norms = gradients[worst]
        yield Row(
            step=step,
            quantity="gradient",
            module=module,
            parameter=worst.removeprefix(module_prefix(module)),
            judge=norms.judge,
            layout=norms.layout,
            difference=relative(norms.difference, norms.judge + least),
        )


class Norms(NamedTuple):
    """Of a tensor in both runs, and of their difference."""

    judge: float
    layout: float
    difference: float


def _norms(judge: Tensor, layout: Tensor) -> Norms:
    mine, its = judge.double(), layout.double()
    return Norms(*(float(tensor.norm()) for tensor in (mine, its, its - mine)))


def _together(parts: Collection[Norms]) -> Norms:
    """Of all tensors as one."""
    return Norms(*(float(torch.tensor(values).norm()) for values in zip(*parts, strict=True)))
