"""The gate, with a ``make`` that does what the test says."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ..helpers.paths import ROOT


@pytest.mark.parametrize(
    ("make", "status", "said"),
    [
        ("exec sleep 60", 124, "stopped in 'make lint': the gate has 1 s in all"),
        (
            '[ "$1" = lint ] || exec sleep 60',
            124,
            "stopped in 'make test': the gate has 1 s in all",
        ),
        ("exit 2", 2, ""),
        ("exit 0", 0, ""),
    ],
)
def test_the_gate_has_a_limit_of_time(tmp_path: Path, make: str, status: int, said: str) -> None:
    fake = tmp_path / "make"
    fake.write_text(f"#!/bin/sh\n{make}\n")
    fake.chmod(0o755)
    environ = os.environ | {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "CI_LIMIT": "1",
        "VENV": str(tmp_path / "venv"),
    }
    done = subprocess.run(
        [ROOT / ".ci" / "run"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert done.returncode == status, done.stderr
    assert said in done.stderr and bool(done.stderr) == bool(said)
