"""One iteration of the run is recorded, and what it tells is written: on all ranks together."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mimo_core.planning.plan import Plan
from mimo_core.platforms.base import RankPlatform
from mimo_core.profile.breakdown import Figures
from mimo_core.profile.chrome_trace import chrome_trace
from mimo_core.profile.clock_alignment import offset_to_rank_0
from mimo_core.profile.clock_sync import Offset
from mimo_core.profile.collectives import recorded_collectives
from mimo_core.profile.recorder import Recorder, recording
from mimo_core.profile.spans import RankTimeline, Timeline
from mimo_core.profile.table import remarks, shares_table
from mimo_core.profile.timeline_plot import draw_timeline
from mimo_core.recipe.schema import ProfileRecipe
from mimo_core.reporting.run_directory import RunDirectory
from mimo_core.reporting.summary import Reporter
from mimo_core.utils.safe_files import replace_text

_FILES = ("timeline.json", "timeline.png", "figures.json", "kernels-rank-*.json.gz")


class Profile:
    """What ``profile`` in a recipe asks for. Made and called by all ranks."""

    def __init__(
        self,
        *,
        plan: Plan,
        platform: RankPlatform,
        folder: RunDirectory,
        reporter: Reporter | None,
        passes: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """
        Args:
            plan: What is run.
            platform: This rank's machine.
            folder: The run's; files are written below its ``profile``.
            reporter: On the rank that reports, which writes them.
            passes: Has the schedule record each microbatch's passes while it is open.
        """
        self._plan = plan
        self._wanted = plan.recipe.profile
        self._platform = platform
        self._folder = folder.profile
        self._reporter = reporter
        self._passes = passes
        self._rank = dist.get_rank()
        self._ran = 0
        self._kept: Any = None
        self._recorded: tuple[Recorder, Offset] | None = None
        if self._wanted.enabled and reporter is not None:
            self._clear()

    @contextmanager
    def around(self) -> Iterator[None]:
        """Around an iteration: records it if it is the one. The device must be done at the end."""
        self._ran += 1
        if not self._wanted.enabled or self._ran != self._wanted.step:
            yield
            return
        recorder = Recorder(self._rank, self._platform.stopwatch())
        offset = offset_to_rank_0()
        with ExitStack() as stack:
            if self._wanted.torch_profiler:
                stack.enter_context(self._kernels())
            stack.enter_context(recorded_collectives())
            stack.enter_context(self._passes())
            self._begin_together()
            stack.enter_context(recording(recorder))
            recorder.begin()
            yield
            recorder.end()
        self._recorded = recorder, offset

    def tell(self, iteration: int) -> None:
        """After an iteration: write what was recorded of it, and show it."""
        if self._recorded is None:
            return
        recorder, offset = self._recorded
        self._recorded = None
        layout = self._plan.layout
        mine = recorder.timeline(
            module=", ".join(layout.modules_on_rank(self._rank)),
            label=layout.rank_label(self._rank),
            offset=offset.seconds,
        )
        error = offset.error + recorder.error
        told: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(told, (mine, error))
        if self._reporter is not None:
            self._write(iteration, told, self._reporter)

    def missed(self) -> str | None:
        """Why no iteration was recorded, if one should have been."""
        if not self._wanted.enabled or self._ran >= self._wanted.step:
            return None
        return (
            f"no profile was written: profile.step is {self._wanted.step}, and this "
            f"command ran {self._ran}; lower it"
        )

    def _clear(self) -> None:
        """No file of an earlier profile stays beside those of this one."""
        for file in _FILES:
            for old in self._folder.glob(file):
                old.unlink()

    def _begin_together(self) -> None:
        dist.all_reduce(torch.zeros(1, device=self._platform.device))
        self._platform.synchronize()

    @contextmanager
    def _kernels(self) -> Iterator[None]:
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU]
        if self._platform.name == "cuda":
            activities.append(ProfilerActivity.CUDA)
        with profile(activities=activities) as kernels:
            yield
        # For the rest of the process: with torch 2.11 some of those that freed it here were ended
        # by a segmentation fault soon after, in code that has nothing to do with it.
        self._kept = kernels
        self._folder.mkdir(parents=True, exist_ok=True)
        kernels.export_chrome_trace(str(self._folder / f"kernels-rank-{self._rank}.json.gz"))

    def _write(
        self, iteration: int, told: list[tuple[RankTimeline, float]], reporter: Reporter
    ) -> None:
        errors = sorted(error for _, error in told)
        timeline = Timeline(
            iteration=iteration,
            ranks=tuple(rank for rank, _ in told),
            clock_error=sum(errors[-2:]),
            device=self._platform.name,
        )
        figures = Figures.of(timeline)
        self._folder.mkdir(parents=True, exist_ok=True)
        _dump(self._folder / "timeline.json", chrome_trace(figures), indent=None)
        _dump(self._folder / "figures.json", figures.to_json(), indent=1)
        draw_timeline(self._folder / "timeline.png", figures)
        reporter.show(shares_table(figures))
        for line in remarks(figures):
            reporter.note(line)
        reporter.note(f"its timeline: {self._folder / 'timeline.png'} (and .json for Perfetto)")


def is_noop(wanted: ProfileRecipe) -> str | None:
    """What a person should know before a run that records no iteration, though its recipe says
    which and how."""
    if wanted.enabled or wanted == ProfileRecipe():
        return None
    return "no profile will be written: profile.enabled is false; add --profile"


def _dump(path: Path, content: dict[str, Any], indent: int | None) -> None:
    replace_text(path, json.dumps(content, indent=indent) + "\n")
