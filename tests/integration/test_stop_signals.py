"""SIGTERM, as at a preemption: the run stops after its iteration, saved, and ends well."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from mimo_core.launch.rank_env import free_port
from mimo_core.utils.signals import AGAIN

from ..helpers.runs import TIMEOUT, Run, command, installed, start, wrapping
from .test_launch_scripts import RECIPE, SCRIPTS, environment
from .test_launcher import ENDLESS, processes, wait_for

pytestmark = pytest.mark.usefixtures("real_nurseries")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the ``faults`` plugin installed."""
    return installed("faults", tmp_path_factory.mktemp("site"))


def planted(site: Path, fault: str, when: Path, **more: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    return environment(FAULT=fault, FAULT_TIME=str(when), PYTHONPATH=path, **more)


@pytest.mark.long
def test_every_process_is_told_and_the_run_goes_on_to_the_last_bit(
    tiny: Run, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second iteration SIGTERM comes to the launcher, the ranks, their loader workers and
    the checkpoint queue; ranks hear it once more from the launcher."""
    folder = tmp_path / "run"
    monkeypatch.setenv("FAULT", "1 provide_batch 9 terminate")
    monkeypatch.setenv("FAULT_TIME", str(tmp_path / "fault"))
    overrides = ("data.num_workers=1", "validation.interval=4", *wrapping("faults"))
    stopped = start("tiny", *overrides, folder=folder, site=site)
    assert stopped.code == 0, stopped.screen + stopped.errors
    done = stopped.summary["iterations"][-1]["iteration"]
    assert 1 <= done < 4
    told, said = stopped.screen.splitlines()[-2:]
    assert told == f"  stopped by SIGTERM after iteration {done} of 4: not finished; go on:"
    assert said == f"    mimo-pretrain {folder}/recipe.yaml --run-dir {folder}"
    assert stopped.errors.strip().startswith("told to stop (SIGTERM): after this iteration")
    assert (stopped.summary["stopped_by"], stopped.summary["finished"]) == ("SIGTERM", False)
    assert not processes(folder)
    monkeypatch.setenv("FAULT", "0 nowhere 1 raise")
    resumed = start(folder / "recipe.yaml", folder=folder, site=site)
    assert resumed.code == 0, resumed.screen + resumed.errors
    assert f"going on after iteration {done}" in resumed.screen
    assert (resumed.losses, resumed.norms) == (tiny.losses, tiny.norms)
    assert resumed.summary["stopped_by"] is None


@pytest.mark.long
def test_the_script_for_torchrun_hands_it_on_and_ends_well(tmp_path: Path) -> None:
    """And a run that does not save says so."""
    folder, screen, save = tmp_path / "run", tmp_path / "screen", "checkpoint.enabled=false"
    environ = environment(RANKS_PER_NODE="2", MASTER_PORT=str(free_port()))
    with screen.open("w") as file:
        script = subprocess.Popen(
            [SCRIPTS / "torchrun.sh", RECIPE, *ENDLESS, save, "--run-dir", folder],
            env=environ,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: "training 1/" in screen.read_text())
        script.terminate()
        assert script.wait(TIMEOUT) == 0, screen.read_text()
    finally:
        script.kill()
        for process in processes(folder):
            process.kill()
    assert "  stopped by SIGTERM after iteration" in screen.read_text()
    assert "not finished, and nothing was saved (checkpoint.enabled is false)" in screen.read_text()
    assert not list(folder.glob("checkpoints/*"))


def test_a_rank_that_is_told_while_ranks_start_ends_all_well(site: Path, tmp_path: Path) -> None:
    """As ``srun`` starts them: no launcher of ours has a say."""
    folder = tmp_path / "run"
    job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "SLURM_NTASKS": "2"}
    ranks = []
    for rank in range(2):
        place = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
        environ = planted(site, "1 build_submodule 1 hang", tmp_path / "fault", **job, **place)
        line = command("tiny", *wrapping("faults"), folder=folder)
        ranks.append(
            subprocess.Popen(
                line, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    try:
        wait_for((tmp_path / "fault").exists)
        ranks[1].terminate()
        screens = [rank.communicate(timeout=TIMEOUT)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert [rank.returncode for rank in ranks] == [0, 0], screens
    said = "rank 1 (language) was told to stop (SIGTERM) before an iteration was done: there is"
    assert said in screens[1] and "failed" not in "".join(screens)
    assert not list(folder.glob("checkpoints/iter*"))


@pytest.mark.long
def test_a_second_signal_ends_the_run_at_once(site: Path, tmp_path: Path) -> None:
    """The iteration that would be waited for never ends."""
    folder, when = tmp_path / "run", tmp_path / "fault"
    launcher = subprocess.Popen(
        command("tiny", *wrapping("faults"), folder=folder),
        env=planted(site, "1 provide_batch 6 hang", when),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(when.exists)
        for _ in range(2):  # as `timeout` does: to the command and to its group
            launcher.send_signal(signal.SIGTERM)
        time.sleep(AGAIN + 0.5)
        assert launcher.poll() is None
        launcher.send_signal(signal.SIGTERM)
        _, errors = launcher.communicate(timeout=1800)
    finally:
        launcher.kill()
        launcher.wait()
    assert launcher.returncode == 130
    assert errors.strip().endswith("stopped; all ranks have ended")
    assert not processes(folder)
