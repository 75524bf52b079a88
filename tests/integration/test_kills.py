"""``kill -9`` of any one rank at any point: the cause is told, and the last complete checkpoint is
the one that is gone on from, to the last bit. Real processes, killed by a plugin."""

from __future__ import annotations

import os
import subprocess
from itertools import groupby
from pathlib import Path

import pytest

from mimo_core.checkpoint.directory import is_complete

from ..helpers.runs import Run, command, installed, wrapping

BEFORE = {
    "import": (0, 1),
    "the first forward": (0, 1),
    "an optimizer's step": (0, 1),
    "an evaluation": (0, 1),
    "before a shard is opened": (0, 1),
    "in the middle of a shard": (0, 1),
    "between the shards and .metadata": (0,),
    "between .metadata and the random states": (0, 1),
    "before the manifest's draft": (0,),
    "between the manifest's draft and its rename": (0,),
}
"""Points before a checkpoint is complete, and the ranks that come to them."""
AFTER = {
    "between the manifest's rename and the tracker's truncation": (0,),
    "between the tracker's truncation and its writing": (0,),
    "after the tracker": (0,),
}
"""Points after it."""
LABELS = ("rank 0 (vision)", "rank 1 (language)")


def chain(*points: str, ranks: tuple[int, ...] = (0, 1)) -> list[tuple[int, str]]:
    both = BEFORE | AFTER
    return [(rank, point) for point in points for rank in both[point] if rank in ranks]


SHORT = [
    *chain("after the tracker"),
    *chain("in the middle of a shard", ranks=(1,)),
    *chain("between the tracker's truncation and its writing"),
    *chain("between the manifest's draft and its rename"),
    *chain("between the manifest's rename and the tracker's truncation"),
    *chain("between the shards and .metadata"),
]
LONG = [
    *chain("import", "in the middle of a shard"),
    *chain("between the manifest's rename and the tracker's truncation"),
    *chain("before a shard is opened", "between the shards and .metadata"),
    *chain("between .metadata and the random states", "before the manifest's draft"),
    *chain("between the manifest's draft and its rename"),
    *chain("between the tracker's truncation and its writing"),
    *chain("the first forward", "an optimizer's step"),
    *chain("after the tracker"),
    *chain("an evaluation"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the ``kills`` plugin installed."""
    return installed("kills", tmp_path_factory.mktemp("site"))


@pytest.mark.parametrize(
    "kills", [pytest.param(SHORT, id="short"), pytest.param(LONG, id="all", marks=pytest.mark.long)]
)
def test_a_run_whose_ranks_are_killed_goes_on_from_the_last_complete_checkpoint(
    kills: list[tuple[int, str]], tiny: Run, site: Path, tmp_path: Path
) -> None:
    """One command: it saves after every iteration, and each kill ends one attempt."""
    folder = tmp_path / "run"
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [
            *command("tiny", "checkpoint.save_interval=1", *wrapping("kills"), folder=folder),
            *("--max-restarts", "9"),
        ],
        env={
            **os.environ,
            "PYTHONPATH": path,
            "COLUMNS": "120",
            "KILLS": ",".join(f"{rank}:{point}" for rank, point in kills),
        },
        capture_output=True,
        text=True,
        timeout=1800 * (1 + len(kills)),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = Run(folder=folder, code=0, screen=done.stdout, errors=done.stderr)
    saved, expected = 0, []
    for rank, point in kills:
        saved += point in AFTER
        expected.append((saved, f"{LABELS[rank]} was ended by signal SIGKILL"))
    told = [
        (row["after_iteration"], row["cause"].partition(";")[0]) for row in run.summary["restarts"]
    ]
    assert told == expected
    assert [line for line in done.stderr.splitlines() if line.startswith("rank ")] == [
        row["cause"] for row in run.summary["restarts"]
    ], "the cause each time"
    parts = [
        line.rpartition(" ")[2] if line.startswith("goes on after") else "0"
        for line in run.log(1).splitlines()
        if line == "begins" or line.startswith("goes on after iteration")
    ]
    begun = [key for key, _ in groupby(parts)]
    assert begun == [key for key, _ in groupby(["0", *(str(after) for after, _ in expected)])]
    assert (run.losses, run.norms) == (tiny.losses, tiny.norms), "as if nothing had happened"
    assert run.summary["evaluation"] == tiny.summary["evaluation"]
    assert all(is_complete(path) for path in folder.glob("checkpoints/iter_*"))
