"""Variables of the environment: what they may say, and that nothing starts where one says more."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import mimo_core
from mimo_core import MimoError, platforms
from mimo_core.launch.rank_env import free_port
from mimo_core.utils import environment

from ..helpers.runs import TIMEOUT, command

SWITCH = "expected 1, true, yes, on, or 0, false, no, off (or nothing)"
WRONG = {
    "MIMO_PLATFORM": ("gpu", "expected cpu or cuda; without it, a GPU is used where torch finds"),
    "MIMO_PEAK_TFLOPS": ("0", "expected the TFLOP/s of one rank at most, a number above 0 such as"),
    "MIMO_EAGER_COMMUNICATORS": ("banana", SWITCH),
    "MIMO_SHARE_GPUS": ("2", SWITCH),
    "OMP_NUM_THREADS": ("banana", "expected the threads of a rank on CPUs, a whole number from 1"),
}


@pytest.mark.parametrize(
    ("said", "threads"),
    [(None, 1), ("", 1), (" ", 1), ("4", 4), ("2,2", 2), (" 3 , 1", 3), ("08", 8)],
)
def test_threads_are_what_openmp_would_take_first(said: str | None, threads: int) -> None:
    assert environment.threads({} if said is None else {"OMP_NUM_THREADS": said}) == threads


@pytest.mark.parametrize("said", ["banana", "0", "-1", "2,", "2,0", "1.5", "1_0", "9" * 20])
def test_other_threads_are_refused_by_name(said: str) -> None:
    with pytest.raises(MimoError, match=f"^OMP_NUM_THREADS={said}: expected the threads of a rank"):
        environment.threads({"OMP_NUM_THREADS": said})


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(MimoError) as caught:
        environment.check({name: value for name, (value, _) in WRONG.items()})
    lines = str(caught.value).splitlines()
    assert len(lines) == len(WRONG)
    for line, (name, (value, due)) in zip(lines, WRONG.items(), strict=True):
        assert line.startswith(f"{name}={value}: {due}")


def test_what_is_empty_counts_as_not_set() -> None:
    environment.check(dict.fromkeys(WRONG, ""))


def test_a_variable_that_looks_like_ours_is_told_with_the_one_that_was_meant() -> None:
    environ = {"MIMO_PLATFROM": "cpu", "OTHER": "1", **dict.fromkeys(environment.NAMES, "1")}
    said = "mimo-core reads no such variable. Did you mean 'MIMO_PLATFORM'?"
    assert [*environment.unknown(environ)] == [("MIMO_PLATFROM", said)]


@pytest.mark.parametrize("name", WRONG)
def test_a_run_does_not_begin(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, WRONG[name][0])
    with pytest.raises(MimoError, match=f"^{name}="):
        mimo_core.pretrain("demo", run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("shown", "due"),
    [
        (None, "MIMO_PLATFORM=cuda, but this machine has no GPU (no NVIDIA driver is loaded"),
        ("", "MIMO_PLATFORM=cuda, but CUDA_VISIBLE_DEVICES= hides all GPUs"),
        ("-1", "MIMO_PLATFORM=cuda, but CUDA_VISIBLE_DEVICES=-1 hides all GPUs"),
    ],
)
def test_a_gpu_that_there_is_not_is_told_before_a_rank_starts(
    shown: str | None, due: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "nvidiactl"
    there.touch()
    monkeypatch.setattr(platforms, "_DEVICES", (there,))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("MIMO_PLATFORM", "cuda")
    platforms.check()
    if shown is None:
        there.unlink()
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    with pytest.raises(MimoError) as caught:
        mimo_core.pretrain("demo", run_dir=tmp_path / "run")
    assert str(caught.value).startswith(due)
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("MIMO_PLATFORM", "")
    platforms.check()
    assert platforms.without_gpu()


def test_a_rank_that_something_else_started_tells_the_same(tmp_path: Path) -> None:
    """Under torchrun and srun no launcher of ours looks before."""
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    run = subprocess.run(
        command("tiny", "placement=colocated", folder=tmp_path / "run"),
        env={**os.environ, **place, "MASTER_PORT": str(free_port()), "MIMO_SHARE_GPUS": "banana"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert run.returncode == 1
    assert run.stderr.lstrip().startswith(
        f"rank 0 failed: MIMO_SHARE_GPUS=banana: {SWITCH} [environment.invalid-value]\n"
    )
