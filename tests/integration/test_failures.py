"""A fault on any rank, of any kind, at any time: the run ends soon, and its cause is told."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import attrs
import pytest

from mimo_core.checkpoint.manifest import read_manifest
from mimo_core.launch.rank_env import free_port

from ..helpers.runs import TIMEOUT, Run, command, installed, start, wrapping
from .test_launcher import processes

# Two encoder ranks feed a language model of two pipeline stages: ranks 0 to 3.
WIDE = ("modules.vision.grid.dp=2", "modules.language.grid.pp=2")
SOON = 20.0
PLUGIN = "plugin 'faults' (faults-plugin 1.0), hook "


@attrs.frozen(kw_only=True)
class Faulty:
    """A run that has ended by a planted fault."""

    run: Run
    seconds: float
    """From the fault to the end of the command."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the ``faults`` plugin installed."""
    return installed("faults", tmp_path_factory.mktemp("site"))


def fail(
    fault: str, *overrides: str, folder: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> Faulty:
    """Run with a fault; whatever it is, the run must end as a whole."""
    when = folder.with_suffix(".fault")
    monkeypatch.setenv("FAULT", fault)
    monkeypatch.setenv("FAULT_TIME", str(when))
    overrides = ("validation.num_samples=4", *wrapping("faults"), *overrides)
    run = start("tiny", *overrides, folder=folder, site=site)
    ended = time.time()
    assert when.exists(), f"the fault was never come to:\n{run.screen}{run.errors}"
    assert run.code == 1, run.screen + run.errors
    assert not processes(folder)
    seconds = ended - float(when.read_text())
    assert seconds < SOON
    return Faulty(run=run, seconds=seconds)


@pytest.mark.parametrize(
    ("fault", "overrides", "said", "log"),
    [
        pytest.param(
            "1 import 1 raise",
            (),
            "rank 1 (language) failed: rank 1 (",
            "",
            id="import fails on one rank",
        ),
        pytest.param(
            "3 build_submodule 2 raise",
            WIDE,
            f"rank 3 (language, pp 1) failed: PluginError: {PLUGIN}'build_submodule' for module "
            "'language', failed (around plugin 'nemotron'): RuntimeError: planted fault",
            "RuntimeError: planted fault",
            id="before the first collective",
        ),
        pytest.param(
            "1 provide_batch 3 raise",
            WIDE,
            f"rank 1 (vision, dp 1) failed: PluginError: {PLUGIN}'provide_batch' for module "
            "'vision', failed (around plugin 'radio'): RuntimeError: planted fault",
            "RuntimeError: planted fault",
            id="in the middle of the pipeline",
        ),
        pytest.param(
            "0 provide_batch 2 raise",
            ("data.num_workers=1",),
            f"rank 0 (vision) failed: {PLUGIN}'provide_batch' for module 'vision', failed "
            "(around plugin 'radio'): RuntimeError: planted fault",
            "",
            id="in a loader worker",
        ),
        pytest.param(
            "0 provide_batch 2 quit",
            (),
            f"rank 0 (vision) failed: PluginError: {PLUGIN}'provide_batch' for module 'vision', "
            "failed (around plugin 'radio'): SystemExit: 0 (at ",
            "faults_plugin.py",
            id="a rank ends itself",
        ),
        pytest.param(
            "0 build_submodule 1 exit",
            (),
            "rank 0 (vision) ended with exit code 3, without a word",
            "INFO:absl:Generated process group",
            id="a rank leaves",
        ),
        pytest.param(
            "2 provide_batch 3 crash",
            WIDE,
            "rank 2 (language, pp 0) was ended by signal SIGSEGV",
            "Fatal Python error: Segmentation fault",
            id="a rank crashes",
        ),
    ],
)
def test_a_fault_ends_the_run_with_its_cause_last_on_the_screen(
    fault: str,
    overrides: tuple[str, ...],
    said: str,
    log: str,
    site: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "run"
    failed = fail(fault, *overrides, folder=folder, site=site, monkeypatch=monkeypatch)
    cause, *lines = failed.run.errors.strip().splitlines()
    assert cause.startswith(said)
    shown = [line.removeprefix("  | ") for line in lines if line.startswith("  | ")]
    assert bool(shown) == bool(log), "a message that says all stands alone"
    assert any(log in line for line in shown) or not log
    assert lines[-1] == f"its log: {folder}/logs/rank-{said.split()[1]}.log"


@pytest.mark.long
def test_a_disk_that_is_full_leaves_the_earlier_checkpoint(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third step's batches find the disk full, so the checkpoint after it cannot be written;
    the first one is gone on from. One that is overwritten is refused, with the way back; one that
    is cut off is told, left out, and written anew."""
    folder, saves = tmp_path / "run", "checkpoint.save_interval=2"
    fault = "1 provide_batch 9 full"
    failed = fail(fault, saves, folder=folder, site=site, monkeypatch=monkeypatch)
    said = f"a checkpoint could not be written to {folder}/checkpoints, where "
    assert f"failed: OSError: {said}" in failed.run.errors
    assert "that of iteration 2 is whole" in failed.run.errors
    monkeypatch.setenv("FAULT", "0 nowhere 1 raise")
    same = ("validation.num_samples=4", *wrapping("faults"))
    resumed = start("tiny", *same, saves, folder=folder, site=site)
    assert resumed.code == 0, resumed.screen + resumed.errors
    assert "going on after iteration 2" in resumed.screen
    assert [row["iteration"] for row in resumed.summary["iterations"]] == [1, 2, 3, 4]
    parts = resumed.log(1).split("\n===== ")
    for part, said in zip(parts, ("begins", "goes on after iteration 2"), strict=True):
        assert said in part.splitlines()

    newest = folder / "checkpoints" / "iter_0000004"
    back = f"echo 2 > {newest.parent}/latest_checkpointed_iteration.txt"
    weights = max(newest.glob("*.distcp"), key=lambda path: path.stat().st_size)
    size = weights.stat().st_size
    with weights.open("r+b") as file:
        file.write(b"\0" * (size // 2))
    failed_to_load = start("tiny", *same, "train.iterations=6", folder=folder, site=site)
    assert failed_to_load.code == 1
    cause, *rest = failed_to_load.errors.strip().splitlines()
    assert f"{newest} is damaged: {weights.name} holds other bytes than were saved" in cause
    assert rest[0].endswith(f"{back} [checkpoint.damaged]")
    assert not any(line.startswith("  | ") for line in rest)

    os.truncate(weights, 1000)
    again = start("tiny", *same, saves, folder=folder, site=site)
    assert again.code == 0, again.screen + again.errors
    told = f"{newest} is no complete checkpoint: {weights.name} has 1000 of {size} bytes"
    assert told in again.screen.replace("\n", "")
    assert "going on after iteration 2" in again.screen
    assert (
        again.losses == resumed.losses
        and read_manifest(newest).files[weights.name]["bytes"] == size
    )


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        pytest.param("1 import 1 raise", "rank 1 failed: rank 1 (", id="fails while others wait"),
        pytest.param(
            "1 provide_batch 3 exit",
            "rank 1 (language) ended without a word",
            id="leaves",
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_fault_ends_all_nodes_and_every_screen_tells_its_cause(
    fault: str, said: str, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two torchrun agents with a rank each, which share nothing but the network and the folder."""
    folder, when = tmp_path / "run", tmp_path / "run.fault"
    port = free_port()
    agents = []
    for node in range(2):
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2"]
        torchrun += ["--nproc-per-node=1", "--rdzv-backend=c10d", f"--node-rank={node}"]
        torchrun += [f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=faults", "-m"]
        agents.append(
            subprocess.Popen(
                torchrun + command("tiny", *wrapping("faults"), folder=folder)[2:],
                env=os.environ
                | {"FAULT": fault, "FAULT_TIME": str(when), "PYTHONPATH": str(site)}
                | {"COLUMNS": "120"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        screens = [agent.communicate(timeout=TIMEOUT)[0] for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
            agent.wait()
    assert time.time() - float(when.read_text()) < SOON
    assert [agent.returncode for agent in agents] == [1, 1], screens
    assert not processes(folder)
    for screen in screens:
        cause = screen.rpartition("Root Cause (first observed failure):")[2]
        # Of a rank that leaves without a word, its own machine's torchrun tells.
        assert said in cause or ("rank      : 1 " in cause and "exitcode  : 3" in cause)
        assert said in screen or "exit" in fault
    assert any(said in screen for screen in screens)
