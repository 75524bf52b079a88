"""One rank that differs ends the run before its first step, or before it saves what is wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mimo_core.checkpoint.directory import newest
from mimo_core.testing import run_ranks

from ..helpers.paths import RANK_FUNCTIONS
from ..helpers.runs import Run, installed, start, wrapping

PLANTED = "module 'vision' (plugin 'radio', wrapped by 'differs')"
FROZEN = "modules.vision.freeze=[encoder]"
TP, DP = "modules.vision.grid.tp=2", "modules.vision.grid.dp=2"

FAULTS: dict[str, tuple[tuple[str, ...], str, tuple[str, ...]]] = {
    "a prefix": (
        (DP,),
        "prefix",
        ("[plugin.differs-by-rank]",
         "hook 'rng_prefix': 'vision.' on rank 0, 'odd.vision.' on rank 1"),
    ),
    "a configuration": (
        (DP,),
        "config",
        (f"{PLANTED}, hook 'build_submodule', config layernorm_epsilon: ", "rank 1 (vision, dp 1)"),
    ),
    "a weight of a copy": (
        (DP,),
        "weight",
        ("differ before the first step", "[plugin.weights-differ]",
         f"{PLANTED}, data-parallel copies, encoders.tower.", "rank 1 (vision, dp 1)"),
    ),
    "a buffer of a copy": (
        (DP,),
        "buffer",
        (f"{PLANTED}, data-parallel copies, names and shapes: ",),
    ),
    "a weight that tp ranks share": (
        (TP,),
        "weight",
        (f"{PLANTED}, not split over tensor-parallel ranks, encoders.tower.",
         "rank 1 (vision, tp 1)"),
    ),
    "inputs of tp ranks": (
        (TP,),
        "inputs",
        (f"{PLANTED}, hook 'provide_batch', first batch, ", "rank 1 (vision, tp 1)"),
    ),
    "no batch": (
        (DP,),
        "none",
        ("plugin 'radio'", "hook 'provide_batch' for module 'vision' wrapped by 'differs' returned "
         "None, but samples have media for the module: digits/train/"),
    ),
    "an unknown key": (
        (DP,),
        "key",
        (f"{PLANTED}, hook 'provide_batch' returned a batch with keys ",
         "got an unexpected keyword argument 'odd'"),
    ),
    "rows of another width": (
        (DP, FROZEN, "modules.vision.options.projector=mlp"),
        "width",
        ("rank 1 (vision, dp 1) failed",),
    ),
}  # fmt: skip
ALWAYS = {"a weight of a copy", "inputs of tp ranks", "an unknown key"}
"""The others differ in the hook only, which faster tests plant too: ``make test-long``."""
CASES = [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.long) for name in FAULTS]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed("differs", tmp_path_factory.mktemp("site"))


def run(site: Path, folder: Path, what: str, *overrides: str) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "DIFFERS", f"1 {what}")
        return start("tiny", *overrides, *wrapping("differs", "vision"), folder=folder, site=site)


@pytest.mark.parametrize("case", CASES)
def test_a_rank_that_differs_ends_the_run_before_its_first_step(
    case: str, site: Path, tmp_path: Path
) -> None:
    layout, what, told = FAULTS[case]
    ended = run(site, tmp_path / "run", what, *layout)
    assert ended.code == 1
    for words in told:
        assert words in ended.errors, ended.errors
    assert "training" not in ended.screen


def test_copies_that_drift_apart_are_not_saved(site: Path, tmp_path: Path) -> None:
    """A bit of a frozen weight changes in the second step (4 microbatches a step)."""
    every = (DP, FROZEN, "checkpoint.save_interval=1", "train.iterations=3")
    ended = run(site, tmp_path / "run", "drift", *every)
    assert ended.code == 1
    assert "differ after iteration 2, which is not saved" in ended.errors
    assert "[plugin.weights-differ]" in ended.errors
    assert f"{PLANTED}, data-parallel copies, encoders.tower." in ended.errors
    assert newest(ended.folder / "checkpoints").iteration == 1


# Comparing, on 8 ranks
@pytest.fixture(scope="module")
def compared() -> list[dict[str, Any]]:
    return run_ranks(f"{RANK_FUNCTIONS / 'replica_consistency.py'}:compare", ranks=8)


STRANGER = "module 'language' (plugin 'stranger')"
ODD = "on rank 5 (language, tp 1, dp 2)"
FOUND: dict[str, tuple[str, ...]] = {
    "a copy": (f"{STRANGER}, data-parallel copies, split: digest ", ODD),
    "an expert": (f"{STRANGER}, data-parallel copies of experts, expert: digest ", ODD),
    "a buffer": (f"{STRANGER}, data-parallel copies, bias: digest ", ODD),
    "a norm": (
        f"{STRANGER}, data-parallel copies, norm: digest ",
        f"{STRANGER}, not split over tensor-parallel ranks, norm: digest ",
        ODD,
    ),
    "a norm of tp 1": (f"{STRANGER}, not split over tensor-parallel ranks, norm: digest ",),
    "trained, a copy": (f"{STRANGER}, data-parallel copies, norm: digest ", ODD),
    "a name": (f"{STRANGER}, data-parallel copies, names and shapes: 3 tensors (digest ", ODD),
    "untied": (f"{STRANGER}, embedding and output layer, tied weight: digest ",),
    "positions": (
        "module 'vision' (plugin 'stranger'), hook 'describe_module', positions, first batch, "
        "sample 1: 4 on rank 0 (vision, tp 0, dp 0), rank 5 (language, dp 1), but 9 on rank 1 "
        "(vision, tp 1, dp 0)",
    ),
    "inputs": (
        "module 'vision' (plugin 'stranger'), hook 'provide_batch', first batch, pixels: float32 "
        "[2, 3] (digest ",
        "but float32 [2, 3] (digest ",
        "on rank 3 (vision, tp 1, dp 1)",
    ),
}


@pytest.mark.parametrize("case", FOUND)
def test_all_ranks_name_what_differs(case: str, compared: list[dict[str, Any]]) -> None:
    (told,) = {rank[case] for rank in compared}
    answers = case in ("positions", "inputs")
    code = "plugin.differs-by-rank" if answers else "plugin.weights-differ"
    assert told.endswith(f" [{code}]")
    for words in FOUND[case]:
        assert words in told


@pytest.mark.parametrize("case", ["equal", "tied", "batches"])
def test_ranks_that_are_equal_go_on(case: str, compared: list[dict[str, Any]]) -> None:
    """What lies split over ranks, and buffers that are not saved, may differ."""
    assert [rank[case] for rank in compared] == [compared[0][case]] * 8
    assert not compared[0][case]


def test_rounding_between_tp_ranks_is_reported_after_training(
    compared: list[dict[str, Any]],
) -> None:
    for rank in compared:
        (line,) = rank["trained, a norm of tp 1"]
        assert f"{STRANGER}, not split over tensor-parallel ranks, norm: digest " in line
