"""The launch scripts of ``examples/``, run for real: processes of one machine play the nodes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mimo_core.launch.rank_env import free_port

from ..helpers.paths import RECIPES, ROOT
from ..helpers.runs import TIMEOUT, Run

SCRIPTS = ROOT / "examples" / "launch"
RECIPE = RECIPES / "tiny.yaml"

SCONTROL = """#!/usr/bin/env bash
[ "$*" = "show hostnames node[0-1]" ] && printf '127.0.0.1\\n127.0.0.2\\n'
"""
# Starts a node's task for each of two nodes, and ends both where one fails.
SRUN = """#!/usr/bin/env bash
[ "$1 $2" = "--kill-on-bad-exit=1 --distribution=block" ] || exit 9
shift 2
for task in 0 1; do
    SLURM_PROCID=$task SLURM_LOCALID=0 SLURM_NODEID=$task "$@" &
done
wait -n && wait -n && exit 0
kill $(jobs -p); exit 1
"""


def environment(**more: str) -> dict[str, str]:
    """As a user has it: the commands of this Python on the path, and nothing of a launcher."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "COLUMNS": "120", **more}


@pytest.mark.long
def test_torchrun_over_two_machines_trains_as_one_machine_does(tiny: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    nodes = {"NNODES": "2", "RANKS_PER_NODE": "1", "MASTER_PORT": str(free_port())}
    agents = [
        subprocess.Popen(
            [SCRIPTS / "torchrun.sh", RECIPE, "--run-dir", folder],
            env=environment(**nodes, NODE_RANK=str(node)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in range(2)
    ]
    try:
        screens = [agent.communicate(timeout=TIMEOUT)[0] for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
            agent.wait()
    assert [agent.returncode for agent in agents] == [0, 0], screens
    assert "training 4/4" in screens[1] and "training" not in screens[0]
    assert Run(folder=folder, code=0, screen="", errors="").losses == tiny.losses


def test_a_slurm_job_trains_as_one_machine_does(tiny: Run, tmp_path: Path) -> None:
    folder, tools = tmp_path / "run", tmp_path / "tools"
    tools.mkdir()
    for name, script in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    job = {
        "SLURM_JOB_ID": str(free_port()),
        "SLURM_JOB_NODELIST": "node[0-1]",
        "SLURM_NTASKS": "2",
        "SLURM_CPUS_PER_TASK": "1",
    }
    environ = environment(**job)
    environ["PATH"] = f"{tools}{os.pathsep}{environ['PATH']}"
    done = subprocess.run(
        [SCRIPTS / "slurm.sbatch", RECIPE, "--run-dir", folder],
        env=environ,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "training 4/4" in done.stdout
    assert Run(folder=folder, code=0, screen="", errors="").losses == tiny.losses
