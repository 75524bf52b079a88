"""Which rank a process is, by what started it."""

from __future__ import annotations

import os

import pytest

from mimo_core.launch.rank_env import Rank

from ..helpers.problems import refused

MEETING = {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
TORCHRUN = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", **MEETING}
SLURM = {"SLURM_PROCID": "6", "SLURM_LOCALID": "2", "SLURM_NTASKS": "16", **MEETING}


def without(environ: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in environ.items() if key != name}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (TORCHRUN, Rank(rank=5, local_rank=1, world_size=8)),
        (SLURM, Rank(rank=6, local_rank=2, world_size=16)),
        # torchrun inside of an srun task: the inner one counts.
        (SLURM | TORCHRUN, Rank(rank=5, local_rank=1, world_size=8)),
        # Each torchrun agent has a screen of its own.
        (
            TORCHRUN | {"GROUP_RANK": "1"},
            Rank(rank=5, local_rank=1, world_size=8, screen=1),
        ),
    ],
    ids=["torchrun", "srun", "torchrun in srun", "torchrun on the second machine"],
)
def test_a_launched_rank_knows_itself(environ, expected):
    assert Rank.from_environment(environ) == expected


@pytest.mark.parametrize(
    "environ",
    [
        {},
        MEETING,
        # An interactive allocation, or a batch script's own shell: nothing was launched.
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0"},
        {"SLURM_NTASKS": "8"},
    ],
    ids=["nothing", "a meeting point", "one task", "an allocation"],
)
def test_a_process_that_nobody_launched_is_no_rank(environ):
    assert Rank.from_environment(environ) is None


@pytest.mark.parametrize(
    ("rank", "local_rank", "screen", "speaks"),
    [(0, 0, 0, True), (1, 1, 0, False), (4, 0, 1, True), (5, 1, 1, False), (4, 0, 0, False)],
)
def test_one_rank_speaks_on_every_screen(rank, local_rank, screen, speaks):
    """Under srun the ranks of all machines write to one: the last case."""
    one = Rank(rank=rank, local_rank=local_rank, world_size=8, screen=screen)
    assert one.speaks is speaks


@pytest.mark.parametrize(
    ("environ", "variable"),
    [
        (without(TORCHRUN, "WORLD_SIZE"), "WORLD_SIZE"),
        (without(TORCHRUN, "MASTER_ADDR"), "MASTER_ADDR"),
        (without(TORCHRUN, "MASTER_PORT"), "MASTER_PORT"),
        (without(SLURM, "MASTER_ADDR"), "MASTER_ADDR"),
    ],
)
def test_a_rank_that_is_half_set_is_told_what_lacks(environ, variable):
    with refused("environment.missing-variable", variable=variable):
        Rank.from_environment(environ)


def test_a_rank_that_is_no_number_is_refused():
    with refused("environment.invalid-value", variable="RANK", value="two"):
        Rank.from_environment(TORCHRUN | {"RANK": "two"})


def test_the_process_environment_is_read_and_written(monkeypatch: pytest.MonkeyPatch):
    for name in {**TORCHRUN, **SLURM}:
        monkeypatch.delenv(name, raising=False)
    assert Rank.from_environment() is None
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    rank = Rank.from_environment()
    assert rank is not None
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, "999")
    rank.export()
    assert [os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")] == ["6", "16", "2"]
    assert Rank.from_environment() == rank
