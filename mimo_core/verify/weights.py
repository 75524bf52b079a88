"""How the weights of two runs changed in each step, read from their checkpoints."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from mimo_core.contract import LANGUAGE
from mimo_core.verify.compare import Row, relative

_PARTS = {"encoder": "encoders.", "projector": "input_projections."}
"""Beginnings of an encoder's keys by the words of ``freeze``."""


class Pair(NamedTuple):
    """A module's weights in both runs."""

    judge: Mapping[str, torch.Tensor]
    layout: Mapping[str, torch.Tensor]


def compare_weights(
    modules: Mapping[str, Collection[str]], judge: Path, layout: Path, steps: int
) -> tuple[list[Row], dict[str, bool]]:
    """Compare every weight of every module after every step.

    Args:
        modules: The parts that are frozen, by module.
        judge: The judge's checkpoints, of iteration 0 too.
        layout: The layout's, from iteration 1 on.
        steps: Iterations.

    Returns:
        A row for each step and module, and for each frozen part whether no bit of it changed.
    """
    rows: list[Row] = []
    kept: dict[str, bool] = {}
    for name, frozen in modules.items():
        initial = module_weights(judge / "iter_0000000", name)
        before = Pair(initial, initial)
        for step in range(1, steps + 1):
            after = Pair(
                *(module_weights(run / f"iter_{step:07d}", name) for run in (judge, layout))
            )
            rows.append(_row(step, name, before, after))
            before = after
        for word in frozen:
            kept[f"{name}.{word}"] = all(
                torch.equal(last[key], initial[key])
                for last in before
                for key in _keys(initial, word)
            )
    return rows, kept


def _row(step: int, module: str, before: Pair, after: Pair) -> Row:
    squares = [0.0, 0.0, 0.0]
    for key in after.judge:
        mine, its = (
            now[key].double() - was[key].double() for was, now in zip(before, after, strict=True)
        )
        for index, tensor in enumerate((mine, its, its - mine)):
            squares[index] += float(tensor.square().sum())
    judge, layout, difference = (square**0.5 for square in squares)
    return Row(
        step=step,
        quantity="parameter change",
        module=module,
        judge=judge,
        layout=layout,
        difference=relative(difference, judge),
    )


def _keys(weights: Mapping[str, torch.Tensor], word: str) -> list[str]:
    return [key for key in weights if key.startswith(_PARTS.get(word, ""))]


def module_weights(folder: Path, module: str) -> dict[str, torch.Tensor]:
    """A module's weights in a checkpoint, whole, by their keys below the module."""
    prefix = f"{LANGUAGE}_model." if module == LANGUAGE else f"modality_submodules.{module}."
    reader = FileSystemReader(folder)
    state = {
        key: torch.empty(entry.size, dtype=entry.properties.dtype)
        for key, entry in reader.read_metadata().state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata) and key.startswith(prefix)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this process is no rank
        load(state, storage_reader=reader, no_dist=True)
    return {key.removeprefix(prefix): tensor for key, tensor in state.items()}
