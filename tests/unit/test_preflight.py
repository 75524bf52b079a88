"""Machines on which ranks cannot run, or only just: named before a rank starts, or they run."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from mimo_core.errors import DiskFullError, MimoError
from mimo_core.launch import preflight
from mimo_core.launch.rank_main import _explain
from mimo_core.reporting.run_directory import RunDirectory

from ..helpers.problems import refused
from ..helpers.runs import TIMEOUT, command

NO_NETWORK = "unshare --net --map-root-user"
FULL_SHM = (
    "unshare --mount --map-root-user bash -c '"
    "mount -t tmpfs -o size=64k tmpfs /dev/shm && head -c 1M /dev/zero >/dev/shm/filler"
    " 2>/dev/null;"
    ' exec "$@"\' bash'
)


def run(prefix: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f'{prefix} "$@"', "bash", *command("tiny", folder=folder)],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ("ulimit -n 64;", "a process may have 64 open files here, and a rank needs 256: ulimit -n"),
        (NO_NETWORK, "ranks cannot reach each other at 127.0.0.1 (Network is unreachable)"),
        (FULL_SHM, "/dev/shm is full (0 bytes free), and ranks share memory there"),
    ],
    ids=["open files", "loopback", "shared memory"],
)
def test_what_is_lacking_is_named_before_a_rank_starts(
    prefix: str, said: str, tmp_path: Path
) -> None:
    words = prefix.split()
    if words[0] == "unshare":
        able = subprocess.run(
            [*words[: words.index("--map-root-user") + 1], "true"], check=False, capture_output=True
        )
        if able.returncode:
            pytest.skip("no namespaces can be made here")
    done = run(prefix, tmp_path / "run")
    assert done.returncode == 2
    assert done.stderr.startswith(said) and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "run" / "logs").exists(), "no rank has started"


@pytest.mark.long
def test_a_long_temporary_folder_is_no_obstacle(tmp_path: Path, real_nurseries: None) -> None:
    """Sockets of the checkpoint queue and of data workers lie in a short one."""
    long = tmp_path / ("a" * 120)
    long.mkdir()
    done = run("", tmp_path / "run", TMPDIR=str(long))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "checkpoints").is_dir()


def test_a_long_temporary_folder_without_a_short_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("a" * 120)))
    monkeypatch.setattr(preflight, "_SHORT_FOLDERS", ("/proc/self",))
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(MimoError, match=r"TMPDIR .* is too long .* \(107 bytes\)"):
        preflight.check(2, local=True)


def test_the_place_that_is_full_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full /dev/shm is not reported as the disk of the run's folder."""
    monkeypatch.setattr("mimo_core.launch.rank_main.full_places", lambda *_: [Path("/dev/shm")])
    full = OSError(28, "No space left on device")
    with refused("run.disk-full", DiskFullError, places=("/dev/shm",)):
        _explain(full, RunDirectory(tmp_path), tmp_path / "checkpoints")
