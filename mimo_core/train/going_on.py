"""Whether a run folder can be gone on from, known before any rank starts."""

from __future__ import annotations

from typing import Any

import attrs

from mimo_core.errors import RecipeError
from mimo_core.plan import Plan
from mimo_core.recipe import load_text
from mimo_core.run_folder import RunFolder, latest_checkpoint
from mimo_core.train.checkpoint_files import damage, way_back


def iterations_done(plan: Plan, folder: RunFolder) -> int | None:
    """Iterations of the checkpoint that the run goes on from; ``None`` where it begins.

    Raises:
        RecipeError: the checkpoint is damaged, of another model or layout, or beyond the run's
            end.
        ValueError: the folder's tracker file names no checkpoint.
    """
    done = latest_checkpoint(folder.checkpoints(plan.recipe.checkpoint.directory))
    if done is None:
        return None
    checkpoints = folder.checkpoints(plan.recipe.checkpoint.directory)
    wrong = damage(checkpoints / f"iter_{done:07d}")
    if wrong is not None:
        raise RecipeError(
            f"the newest checkpoint, {checkpoints / f'iter_{done:07d}'}, is damaged: {wrong}; "
            f"{way_back(checkpoints, done)}"
        )
    if done > plan.recipe.train.iterations:
        raise RecipeError(
            f"{folder.path} holds a checkpoint of iteration {done}, beyond train.iterations = "
            f"{plan.recipe.train.iterations}; raise it, or begin anew with another --run-dir"
        )
    if folder.recipe.exists():
        saved = load_text(folder.recipe.read_text(), str(folder.recipe)).recipe
        changed = _differences(
            "modules", attrs.asdict(saved)["modules"], attrs.asdict(plan.recipe)["modules"]
        )
        if changed:
            raise RecipeError(
                f"{folder.path} holds a checkpoint of iteration {done} of another model or "
                "layout, which cannot be gone on from:\n"
                + "\n".join(f"  {line}" for line in changed)
                + "\nuse the values it was saved with, or begin anew with another --run-dir"
            )
    return done


def _differences(place: str, saved: Any, wanted: Any) -> list[str]:
    """A line for each value that differs."""
    if isinstance(saved, dict) and isinstance(wanted, dict):
        found = []
        for key in [*saved, *(key for key in wanted if key not in saved)]:
            found += _differences(f"{place}.{key}", saved.get(key), wanted.get(key))
        return found
    return [] if saved == wanted else [f"{place}: saved with {saved}, now {wanted}"]
