"""Whether a run folder can be gone on from, known before any rank starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs

from mimo_core.errors import RecipeError
from mimo_core.plan import Plan
from mimo_core.recipe import load_text
from mimo_core.run_folder import TRACKER, RunFolder, latest_checkpoint
from mimo_core.train.checkpoint_files import damage, way_back, whole

_FIXED = ("global_batch_size", "seed", "precision", "learning_rate", "minimum_learning_rate")
"""Of ``train``: what the place in the data and core's parameter groups are told by."""


def iterations_done(plan: Plan, folder: RunFolder) -> int | None:
    """Iterations of the checkpoint that the run goes on from; ``None`` where it begins.

    Raises:
        RecipeError: the checkpoint is damaged, of another model or layout, or beyond the run's
            end.
        ValueError: the folder's tracker file names no checkpoint.
    """
    checkpoints = folder.checkpoints(plan.recipe.checkpoint.directory)
    done = latest_checkpoint(checkpoints)
    if done is None:
        _refuse_untold(checkpoints)
        return None
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
        changed = _changed(attrs.asdict(saved), attrs.asdict(plan.recipe))
        if changed:
            raise RecipeError(
                f"{folder.path} holds a checkpoint of iteration {done} of another model, layout or "
                "training, which cannot be gone on from:\n"
                + "\n".join(f"  {line}" for line in changed)
                + "\nuse the values it was saved with, or begin anew with another --run-dir "
                "(checkpoint.start_from takes the weights along)"
            )
    return done


def _refuse_untold(checkpoints: Path) -> None:
    """A run that begins would write over checkpoints that nothing names as the newest."""
    found = whole(checkpoints)
    if found:
        raise RecipeError(
            f"{checkpoints} holds whole checkpoints (iterations {', '.join(map(str, found))}), but "
            f"no {TRACKER} that names the newest, as after a copy that was not finished; to go on: "
            f"echo {found[-1]} > {checkpoints / TRACKER}; to begin anew, give another --run-dir"
        )


def _changed(saved: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    found = _differences("modules", saved["modules"], wanted["modules"])
    for key in _FIXED:
        found += _differences(f"train.{key}", saved["train"][key], wanted["train"][key])
    return found


def _differences(place: str, saved: Any, wanted: Any) -> list[str]:
    """A line for each value that differs."""
    if isinstance(saved, dict) and isinstance(wanted, dict):
        found = []
        for key in [*saved, *(key for key in wanted if key not in saved)]:
            found += _differences(f"{place}.{key}", saved.get(key), wanted.get(key))
        return found
    return [] if saved == wanted else [f"{place}: saved with {saved}, now {wanted}"]
