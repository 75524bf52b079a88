"""Rules that the values of a recipe keep, beyond their types.

Each gives what is wrong, with a path relative to its argument.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs

from mimo_core.contract import LANGUAGE, Grid, TrainingConfig
from mimo_core.errors import KeyPath, Problem, RecipeError
from mimo_core.recipe.module_names import module_names

if TYPE_CHECKING:
    from mimo_core.recipe.schema import (
        CheckpointRecipe,
        DataRecipe,
        HeartbeatRecipe,
        ModuleRecipe,
        ProfileRecipe,
        Recipe,
        ValidationRecipe,
    )

OUT_OF_RANGE = "recipe.out-of-range"

MOST = {
    "iterations": 10**9,
    "micro_batch_size": 2**24,
    "global_batch_size": 2**24,
    "sequence_length": 2**27,
    "seed": 2**32 - 1,
    "num_workers": 1024,
}
"""Largest values by key. More are mistakes: a run would not end, or would need more memory or
processes than there are, or a seed of more bits than NumPy takes."""
CONFLICT = "recipe.conflict"


class RecipeValidationError(RecipeError):
    """Values of right types that break rules; the loader adds places."""


def grid(value: Grid) -> Iterator[Problem]:
    for name in ("tp", "cp", "pp", "dp", "ep", "etp"):
        yield from _at_least(value, name, 1)
    yield from _at_least(value, "rank_offset", 0)


def train(value: TrainingConfig) -> Iterator[Problem]:
    sizes = (
        "iterations",
        "micro_batch_size",
        "global_batch_size",
        "sequence_length",
        "log_interval",
    )
    for name in sizes:
        yield from _at_least(value, name, 1)
    for name in ("min_learning_rate", "lr_warmup_iterations", "weight_decay", "seed"):
        yield from _at_least(value, name, 0)
    for name in (*sizes, "seed"):
        yield from _at_most(value, name)
    for name in ("learning_rate", "max_grad_norm"):
        number = getattr(value, name)
        if not (number > 0 and math.isfinite(number)):
            yield _positive(name, number)
    if value.min_learning_rate > value.learning_rate:
        yield Problem(
            f"{value.min_learning_rate} is above learning_rate {value.learning_rate}",
            CONFLICT,
            ("min_learning_rate",),
        )
    if 1 <= value.iterations <= value.lr_warmup_iterations:
        yield Problem(
            f"{value.lr_warmup_iterations} leaves nothing of the {value.iterations} iterations; "
            "warm up for fewer",
            CONFLICT,
            ("lr_warmup_iterations",),
        )
    micro = max(value.micro_batch_size, 1)
    if value.global_batch_size % micro:
        yield Problem(
            f"{value.global_batch_size} is no multiple of micro_batch_size {micro}",
            "recipe.not-a-multiple",
            ("global_batch_size",),
        )


def data(value: DataRecipe) -> Iterator[Problem]:
    yield from _at_least(value, "num_workers", 0)
    yield from _at_most(value, "num_workers")


def validation(value: ValidationRecipe) -> Iterator[Problem]:
    yield from _at_least(value, "interval", 0)
    yield from _at_least(value, "num_samples", 1)
    yield from _at_least(value, "num_displayed", 0)


def checkpoint(value: CheckpointRecipe) -> Iterator[Problem]:
    yield from _at_least(value, "save_interval", 0)
    if value.save_at_start and not value.enabled:
        yield Problem(
            "saves the first weights, but enabled is false; leave one of both out",
            CONFLICT,
            ("save_at_start",),
        )


def profile(value: ProfileRecipe) -> Iterator[Problem]:
    yield from _at_least(value, "step", 1)


def heartbeat(value: HeartbeatRecipe) -> Iterator[Problem]:
    for key in ("timeout_seconds", "stall_seconds"):
        seconds = getattr(value, key)
        if not 0 < seconds < float("inf"):
            yield _positive(key, seconds)


def profiled(value: ProfileRecipe, iterations: int) -> Iterator[Problem]:
    """The iteration that is recorded is one of the run."""
    if value.enabled and value.step > iterations >= 1:
        yield Problem(
            f"{value.step} is recorded, but train.iterations is {iterations}; lower the one "
            "or raise the other",
            CONFLICT,
            ("step",),
        )


def freeze(name: str, module: ModuleRecipe) -> Iterator[Problem]:
    """Parts that a module of this name has."""
    parts = (LANGUAGE,) if name == LANGUAGE else ("encoder", "projector")
    kind = "the language model" if name == LANGUAGE else "an encoder"
    for part in module.freeze:
        if part not in parts:
            yield Problem(
                f"{kind} has no part {part!r}; its parts: {', '.join(parts)}",
                "recipe.unknown-choice",
                ("freeze",),
                {"value": part, "choices": parts},
            )


def extra_warmup(name: str, value: ModuleRecipe) -> Iterator[Problem]:
    """Encoders alone have somebody to be ahead of."""
    yield from _at_least(value, "extra_warmup_microbatches", 0)
    if name == LANGUAGE and value.extra_warmup_microbatches > 0:
        yield Problem(
            "is for encoders: the language model is the last to compute; leave it out",
            CONFLICT,
            ("extra_warmup_microbatches",),
        )


def extra_warmup_fits(recipe: Recipe) -> Iterator[Problem]:
    """An encoder cannot be ahead by more microbatches than an iteration has."""
    language = recipe.modules.get(LANGUAGE)
    copies = 1 if language is None else language.grid.dp
    size = max(recipe.train.micro_batch_size, 1) * max(copies, 1)
    count = max(recipe.train.global_batch_size // size, 1)
    for name, part in recipe.modules.items():
        if name != LANGUAGE and part.extra_warmup_microbatches > count:
            yield Problem(
                f"{part.extra_warmup_microbatches} is more than the {count} microbatches of an "
                f"iteration (global_batch_size {recipe.train.global_batch_size}); give at most "
                f"{count}",
                OUT_OF_RANGE,
                ("modules", name, "extra_warmup_microbatches"),
                {"value": part.extra_warmup_microbatches, "most": count},
            )


def module(value: ModuleRecipe) -> Iterator[Problem]:
    """Factors of a module that learns."""
    yield from _at_least(value, "wd_mult", 0)
    factor = value.lr_mult
    if not (factor > 0 and math.isfinite(factor)):
        yield Problem(
            f"must be a number above 0, got {factor}; parts that do not learn are named in freeze",
            OUT_OF_RANGE,
            ("lr_mult",),
            {"value": factor},
        )


def whole(recipe: Recipe) -> Iterator[Problem]:
    """Every rule, for the whole recipe."""
    yield from _under(("modules",), module_names(recipe.modules))
    yield from extra_warmup_fits(recipe)
    for name, part in recipe.modules.items():
        yield from _under(("modules", name, "grid"), grid(part.grid))
        yield from _under(("modules", name), freeze(name, part))
        yield from _under(("modules", name), extra_warmup(name, part))
        yield from _under(("modules", name), module(part))
    yield from _under(("data",), data(recipe.data))
    yield from _under(("train",), train(recipe.train))
    yield from _under(("validation",), validation(recipe.validation))
    yield from _under(("checkpoint",), checkpoint(recipe.checkpoint))
    yield from _under(("profile",), profile(recipe.profile))
    yield from _under(("heartbeat",), heartbeat(recipe.heartbeat))
    yield from _under(("profile",), profiled(recipe.profile, recipe.train.iterations))


def _under(prefix: KeyPath, problems: Iterator[Problem]) -> Iterator[Problem]:
    return (attrs.evolve(problem, path=prefix + problem.path) for problem in problems)


def _positive(name: str, number: float) -> Problem:
    message = f"must be a number above 0, got {number}"
    return Problem(message, OUT_OF_RANGE, (name,), {"value": number})


def _at_least(value: attrs.AttrsInstance, name: str, least: int) -> Iterator[Problem]:
    number = getattr(value, name)
    if number is not None and not (number >= least and math.isfinite(number)):
        message = f"must be at least {least}, got {number}"
        yield Problem(message, OUT_OF_RANGE, (name,), {"value": number, "least": least})


def _at_most(value: attrs.AttrsInstance, name: str) -> Iterator[Problem]:
    number = getattr(value, name)
    most = MOST.get(name)
    if most is not None and number > most:
        message = f"must be at most {most}, got {number}"
        yield Problem(message, OUT_OF_RANGE, (name,), {"value": number, "most": most})
