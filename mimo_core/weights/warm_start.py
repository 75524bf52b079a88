"""What a new run starts with: fresh weights, or those of a checkpoint; known before a rank is."""

from __future__ import annotations

from pathlib import Path

from mimo_core.checkpoint.compatibility import module_differences
from mimo_core.checkpoint.directory import LatestCheckpoint, newest
from mimo_core.checkpoint.manifest import Manifest
from mimo_core.errors import Problem
from mimo_core.planning.plan import Plan
from mimo_core.recipe import load_recipe
from mimo_core.reporting.run_directory import RunDirectory
from mimo_core.weights.checkpoint_fit import misfits_of_start
from mimo_core.weights.frozen_sources import origins_of

_SHOWN = 8
"""Tensors of a module that a message lists."""
META = "init_model_with_meta_device"
"""Field of ``TransformerConfig``: build without memory for weights, which must be loaded then."""


def starting_weights(plan: Plan, done: int | None) -> LatestCheckpoint | None:
    """The checkpoint that gives a new run its weights, and nothing else.

    Args:
        plan: What to run.
        done: Iterations of the checkpoint that the run goes on from; it has all weights then.

    Raises:
        RecipeError: ``checkpoint.init_from`` holds no complete checkpoint, or one whose tensors do
            not fit the model; a module is given weights that it has of it; or weights would be left
            without values.
        CheckpointError: the newest checkpoint there is damaged, or of another format.
    """
    if done is not None:
        return None
    given = plan.recipe.checkpoint.init_from
    if given is None:
        _refuse_meta(plan)
        return None
    path = ("checkpoint", "init_from")
    place = Path(given)
    if not place.is_dir():
        message = f"{given!r}: there is no such folder in {Path.cwd()}; give a run folder"
        raise plan.loaded.error([Problem(message, "checkpoint.not-found", path)])
    found = newest(checkpoints_of(place).absolute()).usable()
    if found.manifest is None:
        told = "".join(f"\n  {line}" for line in found.told)
        message = f"{given!r} holds no complete checkpoint{told}"
        raise plan.loaded.error([Problem(message, "checkpoint.incomplete", path)])
    _refuse_two_sources(plan, found.manifest)
    _refuse_misfits(plan, given, found.manifest)
    return found


def _refuse_misfits(plan: Plan, given: str, saved: Manifest) -> None:
    found = misfits_of_start(plan, saved)
    if not found:
        return
    lines = []
    for name, of_module in found.items():
        lines += [f"  {name}: {line}" for line in of_module[:_SHOWN]]
        if len(of_module) > _SHOWN:
            lines.append(f"  {name}: and {len(of_module) - _SHOWN} more")
    differences = module_differences(saved, plan)
    if differences:
        lines += ["values of the recipe that differ:", *(f"  {line}" for line in differences)]
    message = "\n".join(
        [
            f"{given!r} does not fit the model:",
            *lines,
            "use the values that it was saved with, or start without its weights",
        ]
    )
    problem = Problem(
        message,
        "checkpoint.other-model",
        ("checkpoint", "init_from"),
        values={"checkpoint": given, "modules": tuple(found), "differences": tuple(differences)},
    )
    raise plan.loaded.error([problem])


def _refuse_two_sources(plan: Plan, saved: Manifest) -> None:
    """A directory beside a checkpoint can only be the one that the checkpoint's own is read in."""
    again = {origin.module for origin in origins_of(saved)}
    wrong = [
        Problem(
            "checkpoint.init_from gives every module its weights, this one too; leave one of "
            "both out",
            "recipe.conflict",
            ("modules", name, "pretrained_weights"),
        )
        for name, module in plan.recipe.modules.items()
        if module.pretrained_weights is not None and name not in again
    ]
    if wrong:
        raise plan.loaded.error(wrong)


def checkpoints_of(place: Path) -> Path:
    """The folder of checkpoints of a run folder, as its recipe names it; else ``place`` itself.

    Raises:
        RecipeError: the recipe in the run folder cannot be read.
    """
    run = RunDirectory(place)
    directory = None
    if run.recipe.exists():
        directory = load_recipe(run.recipe).recipe.checkpoint.directory
    inner = run.checkpoints(directory)
    return inner if inner.is_dir() else place


def _refuse_meta(plan: Plan) -> None:
    """Weights that are built on the meta device have no values until some are loaded."""
    wrong = [
        Problem(
            "weights without memory get values from a checkpoint alone, and this run loads none; "
            "set checkpoint.init_from, or leave it out",
            "recipe.conflict",
            ("modules", name, "megatron", META),
        )
        for name, module in plan.graph.modules.items()
        if module.megatron.get(META)
    ]
    if wrong:
        raise plan.loaded.error(wrong)
