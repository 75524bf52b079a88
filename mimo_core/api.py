"""``mimo_core.pretrain``: a run from Python, the same as from the command line."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimo_core import platforms
from mimo_core.checkpoint.compatibility import find_resumable_checkpoint
from mimo_core.errors import MimoError
from mimo_core.launch import preflight
from mimo_core.launch.rank_env import Rank
from mimo_core.planning.memory_estimate import memory_warning
from mimo_core.planning.plan import make_plan
from mimo_core.recipe import builtin
from mimo_core.reporting.run_directory import RunDirectory
from mimo_core.utils.standard_streams import console as make_console
from mimo_core.weights.frozen_sources import check_origins
from mimo_core.weights.pretrained import directories
from mimo_core.weights.warm_start import starting_weights

if TYPE_CHECKING:
    from mimo_core.recipe import Recipe


def pretrain(
    recipe: Path | str | Recipe | None = None,
    *,
    overrides: Sequence[str] = (),
    run_dir: Path | str | None = None,
    disabled: Sequence[str] = (),
    max_restarts: int = 0,
) -> dict[str, Any] | None:
    """Train the model that a recipe describes.

    Starts one process a rank on this machine; under torchrun or ``srun``, where this process is
    a rank already, it runs that one.

    Args:
        recipe: A recipe file, the name of one that comes in the package (``demo-shuffled``), or
            a recipe made in Python; the demo by default.
        overrides: ``key.path=value``, as on the command line.
        run_dir: Folder of the run. One that has a checkpoint goes on from it.
        disabled: Installed plugins to leave out.
        max_restarts: How often in a row, without a new checkpoint in between, a run that failed
            goes on by itself from its newest one. A mistake in the recipe or in data is no reason
            to.

    Returns:
        The run's summary, which is also in ``summary.json``; ``None`` on a rank that does not
        report, and where SIGTERM came before an iteration was done.

    Raises:
        ValueError: the recipe, a plugin or the layout is wrong; the message says what to do.
        RunFailedError: a rank failed while running.
    """
    asked = time.time()
    if run_dir is not None and not str(run_dir).strip():
        raise MimoError(
            f"run_dir is an empty text ({run_dir!r}); name a folder, or leave it out",
            code="run.unusable-folder",
            folder=str(run_dir),
        )
    source = builtin.DEMO if recipe is None else recipe
    rank = Rank.from_environment()
    name = Path(source).stem if isinstance(source, str | Path) else "run"
    folder = RunDirectory.fresh(name) if run_dir is None else RunDirectory(Path(run_dir))
    if rank is not None:
        if max_restarts:
            raise MimoError(
                "max_restarts is for runs whose ranks mimo-pretrain starts itself; here torchrun "
                "or srun did: give it to torchrun, or have the job requeued",
                code="launch.restarts",
                max_restarts=max_restarts,
            )
        from mimo_core.launch.rank_main import run_rank

        size = rank.world_size
        summary: dict[str, Any] | None = run_rank(
            lambda host: make_plan(source, overrides, host, world_size=size),
            rank,
            folder,
            disabled,
        )
        return summary
    folder.check()
    platforms.check()
    plan = make_plan(source, overrides, disabled=disabled)
    from mimo_core.launch.launcher import launch
    from mimo_core.reporting.header import run_header

    console = make_console()
    console.print(run_header(plan))
    going_on = find_resumable_checkpoint(plan, folder)
    done = going_on.iteration
    weights = starting_weights(plan, done)
    saved = (weights or going_on).manifest
    found = directories(plan, done, saved)
    if saved is not None:
        check_origins(saved, found)
    begins = "" if done is None else f", going on after iteration {done}"
    if weights is not None:
        begins = f", with the weights of {weights.path}"
    console.print(f"  run folder {folder.path}{begins}", highlight=False, soft_wrap=True)
    if lacks := memory_warning(plan.graph, plan.layout):
        console.print(f"  {lacks}", style="yellow", highlight=False, soft_wrap=True)
    preflight.check(plan.layout.world_size, local=True)
    return launch(plan, folder, disabled, max_restarts, asked)
