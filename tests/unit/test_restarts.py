"""Which failures a run goes on from by itself, and how often.

Ranks that are really killed, and what becomes of their checkpoints, are in test_kills.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from mimo_core.launch import launcher
from mimo_core.launch.exit_handling import LAUNCHED, RESTARTS
from mimo_core.launch.failure import Failure
from mimo_core.launch.launcher import RunFailedError, launch
from mimo_core.planning.plan import make_plan
from mimo_core.reporting.run_directory import RunDirectory

from ..helpers.paths import RECIPES

KILLED = Failure(
    rank=1,
    label="rank 1 (language)",
    message="was ended by signal SIGKILL",
    log=None,
    silent=True,
    error_code="a.b",
)
ASKED = 1e9
"""When runs were asked for."""


@attrs.define(kw_only=True)
class Attempts:
    """Stands for ranks: each attempt ends as it is told here, after the iterations it is told."""

    ends: list[tuple[int | None, Failure | None]]
    told: list[Any] = attrs.field(factory=list)
    begun: list[float] = attrs.field(factory=list)
    saved: int | None = None

    def attempt(
        self,
        nursery: Any,
        plan: Any,
        folder: RunDirectory,
        disabled: Any,
        environment: Any,
        stopping: Any,
    ) -> Failure | None:
        self.told.append(json.loads(environment[RESTARTS]))
        self.begun.append(float(environment[LAUNCHED]))
        self.saved, failure = self.ends.pop(0)
        folder.write_summary({"finished": True})
        return failure

    def run(self, max_restarts: int, folder: Path, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(launcher, "attempt", self.attempt)
        patch.setattr(
            launcher,
            "find_resumable_checkpoint",
            lambda plan, folder: SimpleNamespace(iteration=self.saved),
        )
        plan = make_plan(RECIPES / "tiny.yaml")
        launch(plan, RunDirectory(folder), max_restarts=max_restarts, asked=ASKED)


@pytest.fixture
def attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int, list[tuple[int | None, Failure | None]]], Attempts]:
    def run(max_restarts: int, ends: list[tuple[int | None, Failure | None]]) -> Attempts:
        made = Attempts(ends=ends)
        made.run(max_restarts, tmp_path / "run", monkeypatch)
        return made

    return run


def test_a_new_checkpoint_counts_restarts_anew(
    attempts: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = [(None, KILLED), (None, KILLED), (2, KILLED), (2, KILLED), (4, None)]
    made = attempts(2, ends)
    assert [row["after_iteration"] for row in made.told[-1]] == [0, 0, 2, 2]
    # Seconds to the first iteration count from what was asked for, and from each restart.
    assert made.begun == [ASKED, *(row["time"] for row in made.told[-1])]
    assert {row["cause"] for row in made.told[-1]} == {f"{KILLED.label} {KILLED.message}"}
    assert {row["error_code"] for row in made.told[-1]} == {KILLED.error_code}
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    cause = "rank 1 (language) was ended by signal SIGKILL"
    assert lines[::2] == [cause] * 4, "the cause each time"
    assert lines[1::2] == [
        "  restart 1 of 2: begins anew, as nothing was saved",
        "  restart 2 of 2: begins anew, as nothing was saved",
        "  restart 1 of 2: goes on after iteration 2",
        "  restart 2 of 2: goes on after iteration 2",
    ]


@pytest.mark.parametrize(
    ("allowed", "ends"),
    [
        pytest.param(0, [(2, KILLED)], id="none is asked for"),
        pytest.param(1, [(2, KILLED), (2, KILLED)], id="no progress"),
        pytest.param(9, [(2, attrs.evolve(KILLED, expected=True))], id="a mistake"),
    ],
)
def test_a_run_that_would_only_fail_again_fails(
    allowed: int, ends: list[tuple[int | None, Failure | None]], attempts: Any
) -> None:
    with pytest.raises(RunFailedError, match="was ended by signal SIGKILL") as failed:
        attempts(allowed, ends)
    assert failed.value.code == KILLED.error_code
    assert not ends
