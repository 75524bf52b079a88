"""What changed between the save of a checkpoint and the run that resumes from it, for the screen.

Every value of the recipe that differs is refused (``mimo_core.checkpoint.compatibility``),
reported here, or in ``HARMLESS``. A key that is in no list is reported.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from importlib import metadata
from typing import Any

from mimo_core.checkpoint.manifest import Manifest
from mimo_core.planning.plan import Plan
from mimo_core.recipe.converter import plain

HARMLESS = (
    # When something is saved, shown or looked at.
    *("checkpoint.*", "profile.*", "heartbeat.*", "train.log_interval", "validation.interval"),
    "validation.num_displayed",
    # Which process or rank computes a number, not the number.
    *("data.num_workers", "modules.*.extra_warmup_microbatches", "modules.*.grid.rank_offset"),
)
"""Places whose value changes no number of a run."""
ELSEWHERE = ("data.*", "tokenizer.*", "placement", "modules.*.grid.*")
"""Places that ``data_differences`` and ``facts.changes`` report."""
_PACKAGES = ("torch", "megatron-core", "mimo-core", "numpy", "transformer-engine", "mamba-ssm")
_VARIABLES = (
    *("NVTE_*", "CUBLAS_*", "CUDNN_*", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32*"),
    *("OMP_NUM_THREADS", "MKL_*", "ATEN_CPU_CAPABILITY", "DNNL_*", "MIMO_PLATFORM"),
)
"""Environment variables by which libraries choose kernels, and so the order of sums."""


def surroundings() -> dict[str, dict[str, str]]:
    """``versions`` of what computes, and the variables of ``environment`` that libraries read."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    environment = {
        name: value
        for name, value in sorted(os.environ.items())
        if any(fnmatchcase(name, pattern) for pattern in _VARIABLES)
    }
    return {"versions": versions, "environment": environment}


def resume_changes(saved: Manifest, plan: Plan, now: Mapping[str, Any]) -> Iterator[str]:
    """A line for each value that may change numbers and is not as it was.

    Args:
        saved: Of the checkpoint.
        plan: What resumes.
        now: What ``facts_to_keep`` gives.
    """
    for place, before, after in _changed((), saved.recipe, plain(plan.recipe)):
        if any(fnmatchcase(place, pattern) for pattern in (*HARMLESS, *ELSEWHERE)):
            continue
        effect = ""
        if place == "train.iterations" and plan.recipe.train.lr_decay_style != "constant":
            effect = (
                "; the learning rate follows the schedule of the new length from the next "
                "iteration, and jumps there"
            )
        yield f"{place}: saved with {before}, now {after}{effect}"
    yield from surroundings_changes(saved, now)


def surroundings_changes(saved: Manifest, now: Mapping[str, Any]) -> Iterator[str]:
    """A line for each library and environment variable that is not as it was."""
    for place, before, after in _changed((), saved.versions, now["versions"]):
        yield f"version of {place}: saved with {before}, now {after}"
    for place, before, after in _changed((), saved.environment, now["environment"]):
        yield f"environment variable {place}: saved with {before}, now {after}"


def _changed(path: tuple[str, ...], before: Any, after: Any) -> Iterator[tuple[str, Any, Any]]:
    """Places with both values; ``None`` where there is none."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys((*before, *after)):
            yield from _changed((*path, str(key)), before.get(key), after.get(key))
    elif _alike(before) != _alike(after):
        yield ".".join(path), before, after


def _alike(value: Any) -> Any:
    """A value as JSON gives it."""
    return [_alike(one) for one in value] if isinstance(value, list | tuple) else value
