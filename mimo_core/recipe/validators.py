"""Rules that the values of a recipe keep, beyond their types.

Each gives what is wrong, with a path relative to its argument.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs

from mimo_core.contract import LANGUAGE, Grid, Train
from mimo_core.errors import KeyPath, Problem, RecipeError
from mimo_core.recipe.module_names import module_names

if TYPE_CHECKING:
    from mimo_core.recipe.schema import (
        CheckpointRecipe,
        DataRecipe,
        EvaluateRecipe,
        HeartbeatRecipe,
        ModuleRecipe,
        ProfileRecipe,
        Recipe,
    )

OUT_OF_RANGE = "recipe.out-of-range"

MOST = {
    "iterations": 10**9,
    "micro_batch_size": 2**24,
    "global_batch_size": 2**24,
    "sequence_length": 2**27,
    "seed": 2**32 - 1,
    "workers": 1024,
}
"""Largest values by key. More are mistakes: a run would not end, or would need more memory or
processes than there are, or a seed of more bits than NumPy takes."""
CONFLICT = "recipe.conflict"


class BrokenRules(RecipeError):
    """Values of right types that break rules; the loader adds places."""


def grid(value: Grid) -> Iterator[Problem]:
    for name in ("tp", "cp", "pp", "dp", "ep", "expert_tp"):
        yield from _at_least(value, name, 1)
    yield from _at_least(value, "first_rank", 0)


def train(value: Train) -> Iterator[Problem]:
    sizes = ("iterations", "micro_batch_size", "global_batch_size", "sequence_length", "log_every")
    for name in sizes:
        yield from _at_least(value, name, 1)
    for name in ("minimum_learning_rate", "warmup_iterations", "weight_decay", "seed"):
        yield from _at_least(value, name, 0)
    for name in (*sizes, "seed"):
        yield from _at_most(value, name)
    for name in ("learning_rate", "clip_gradient"):
        number = getattr(value, name)
        if not (number > 0 and math.isfinite(number)):
            yield _positive(name, number)
    if value.minimum_learning_rate > value.learning_rate:
        yield Problem(
            f"{value.minimum_learning_rate} is above learning_rate {value.learning_rate}",
            CONFLICT,
            ("minimum_learning_rate",),
        )
    if 1 <= value.iterations <= value.warmup_iterations:
        yield Problem(
            f"{value.warmup_iterations} leaves nothing of the {value.iterations} iterations; "
            "warm up for fewer",
            CONFLICT,
            ("warmup_iterations",),
        )
    micro = max(value.micro_batch_size, 1)
    if value.global_batch_size % micro:
        yield Problem(
            f"{value.global_batch_size} is no multiple of micro_batch_size {micro}",
            "recipe.not-a-multiple",
            ("global_batch_size",),
        )


def data(value: DataRecipe) -> Iterator[Problem]:
    yield from _at_least(value, "workers", 0)
    yield from _at_most(value, "workers")


def evaluate(value: EvaluateRecipe) -> Iterator[Problem]:
    yield from _at_least(value, "every", 0)
    yield from _at_least(value, "samples", 1)
    yield from _at_least(value, "show", 0)


def checkpoint(value: CheckpointRecipe) -> Iterator[Problem]:
    yield from _at_least(value, "save_every", 0)
    if value.save_initial and not value.save:
        yield Problem(
            "saves the first weights, but save is false; leave one of both out",
            CONFLICT,
            ("save_initial",),
        )


def profile(value: ProfileRecipe) -> Iterator[Problem]:
    yield from _at_least(value, "iteration", 1)


def heartbeat(value: HeartbeatRecipe) -> Iterator[Problem]:
    for key in ("timeout_seconds", "stall_seconds"):
        seconds = getattr(value, key)
        if not 0 < seconds < float("inf"):
            yield _positive(key, seconds)


def profiled(value: ProfileRecipe, iterations: int) -> Iterator[Problem]:
    """The iteration that is recorded is one of the run."""
    if value.record and value.iteration > iterations >= 1:
        yield Problem(
            f"{value.iteration} is recorded, but train.iterations is {iterations}; lower the one "
            "or raise the other",
            CONFLICT,
            ("iteration",),
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


def ahead(name: str, value: ModuleRecipe) -> Iterator[Problem]:
    """Encoders alone have somebody to be ahead of."""
    yield from _at_least(value, "ahead", 0)
    if name == LANGUAGE and value.ahead > 0:
        yield Problem(
            "is for encoders: the language model is the last to compute; leave it out",
            CONFLICT,
            ("ahead",),
        )


def ahead_of_nothing(recipe: Recipe) -> Iterator[Problem]:
    """An encoder cannot be ahead by more microbatches than an iteration has."""
    language = recipe.modules.get(LANGUAGE)
    copies = 1 if language is None else language.grid.dp
    size = max(recipe.train.micro_batch_size, 1) * max(copies, 1)
    count = max(recipe.train.global_batch_size // size, 1)
    for name, part in recipe.modules.items():
        if name != LANGUAGE and part.ahead > count:
            yield Problem(
                f"{part.ahead} is more than the {count} microbatches of an iteration "
                f"(global_batch_size {recipe.train.global_batch_size}); give at most {count}",
                OUT_OF_RANGE,
                ("modules", name, "ahead"),
                {"value": part.ahead, "most": count},
            )


def module(value: ModuleRecipe) -> Iterator[Problem]:
    """Factors of a module that learns."""
    yield from _at_least(value, "weight_decay_factor", 0)
    factor = value.learning_rate_factor
    if not (factor > 0 and math.isfinite(factor)):
        yield Problem(
            f"must be a number above 0, got {factor}; parts that do not learn are named in freeze",
            OUT_OF_RANGE,
            ("learning_rate_factor",),
            {"value": factor},
        )


def whole(recipe: Recipe) -> Iterator[Problem]:
    """Every rule, for the whole recipe."""
    yield from _under(("modules",), module_names(recipe.modules))
    yield from ahead_of_nothing(recipe)
    for name, part in recipe.modules.items():
        yield from _under(("modules", name, "grid"), grid(part.grid))
        yield from _under(("modules", name), freeze(name, part))
        yield from _under(("modules", name), ahead(name, part))
        yield from _under(("modules", name), module(part))
    yield from _under(("data",), data(recipe.data))
    yield from _under(("train",), train(recipe.train))
    yield from _under(("evaluate",), evaluate(recipe.evaluate))
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
