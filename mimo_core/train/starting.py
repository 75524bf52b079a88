"""What a new run starts with: fresh weights, or those of a checkpoint; known before a rank is."""

from __future__ import annotations

from pathlib import Path

from mimo_core.plan import Plan
from mimo_core.run_folder import RunFolder, latest_checkpoint
from mimo_core.train.checkpoint_files import damage

META = "init_model_with_meta_device"
"""Field of ``TransformerConfig``: build without memory for weights, which must be loaded then."""


def starting_weights(plan: Plan, done: int | None) -> Path | None:
    """The folder of checkpoints whose newest one gives a new run its weights, and nothing else.

    Args:
        plan: What to run.
        done: Iterations of the checkpoint that the run goes on from; it has all weights then.

    Raises:
        RecipeError: ``checkpoint.start_from`` holds no checkpoint, or weights would be left
            without values.
    """
    if done is not None:
        return None
    given = plan.recipe.checkpoint.start_from
    if given is None:
        _refuse_meta(plan)
        return None
    path = ("checkpoint", "start_from")
    place = Path(given)
    inner = RunFolder(place).checkpoints(None)
    folder = inner if inner.is_dir() else place
    if not folder.is_dir():
        raise plan.loaded.error(
            [(path, f"{given!r}: there is no such folder in {Path.cwd()}; give a run folder")]
        )
    newest = latest_checkpoint(folder)
    if newest is None:
        raise plan.loaded.error(
            [(path, f"{given!r} holds no checkpoint (no latest_checkpointed_iteration.txt)")]
        )
    wrong = damage(folder / f"iter_{newest:07d}")
    if wrong is not None:
        raise plan.loaded.error(
            [(path, f"the newest checkpoint in {given!r}, iteration {newest}, is damaged: {wrong}")]
        )
    return folder.absolute()


def _refuse_meta(plan: Plan) -> None:
    """Weights that are built on the meta device have no values until some are loaded."""
    wrong = [
        (
            ("modules", name, "megatron", META),
            "weights without memory get values from a checkpoint alone, and this run loads none; "
            "set checkpoint.start_from, or leave it out",
        )
        for name, module in plan.graph.modules.items()
        if module.megatron.get(META)
    ]
    if wrong:
        raise plan.loaded.error(wrong)
