"""Sockets of a run on one machine: only this machine reaches them, and what others write to them
changes nothing."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from mimo_core.launch.rank_env import free_port

from ..helpers.runs import TIMEOUT, Run, command, installed, wrapping
from ..unit.test_supervisor import HOSTILE
from .test_launcher import processes

LISTENS = 0x10000
"""Flag of a listening socket in ``/proc/net/unix``."""
SENT = {
    **HOSTILE,
    "nothing at all": b"",
    "lines": b"hello\nhow are you\n" * 1000,
    "zeros": bytes(1 << 16),
    "counters": b"".join(number.to_bytes(8, "little") for number in range(64)),
}

pytestmark = [
    pytest.mark.long,
    pytest.mark.usefixtures("real_nurseries"),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

type Sockets = dict[tuple[str, int], str]


def listening(folder: Path) -> Sockets:
    """Addresses at which processes of a run listen, with what listens there."""
    found: Sockets = {}
    for process in processes(folder):
        try:
            rank = process.environ().get("RANK")
            name = process.name() if rank is None else f"mimo rank {rank}"
            for one in process.net_connections(kind="inet"):
                # Children have the listening sockets of the process that they are forked from.
                if one.status in (psutil.CONN_LISTEN, psutil.CONN_NONE):
                    found.setdefault((one.laddr.ip, one.laddr.port), name)
        except psutil.Error:
            continue
    return found


def unix_sockets(folder: Path) -> set[str]:
    """Names of the Unix sockets at which processes of a run listen; ``@…`` is an abstract name."""
    own: set[str] = set()
    for process in processes(folder):
        for entry in Path(f"/proc/{process.pid}/fd").iterdir():
            try:
                own.add(os.readlink(entry).removeprefix("socket:[").removesuffix("]"))
            except OSError:
                continue
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return {line[7] for line in lines if line[6] in own and int(line[3], 16) & LISTENS}


def disturb(address: tuple[str, int], stack: ExitStack) -> None:
    """Connect once for each kind of garbage, send it, and stay connected."""
    for sent in SENT.values():
        try:
            stranger = socket.create_connection(address, TIMEOUT)
            stack.enter_context(stranger)
            stranger.setblocking(False)
            stranger.send(sent)
        except OSError:
            continue


@pytest.mark.parametrize("way", ["mimo-pretrain", "torchrun", "torchrun --standalone"])
def test_strangers_change_nothing_of_a_run_on_one_machine(
    way: str, tiny: Run, tmp_path: Path
) -> None:
    """Each socket is disturbed as soon as it is there, and all again during an iteration."""
    folder, when = tmp_path / "run", tmp_path / "when"
    pipe = Path(f"{when}.pipe")
    site = tmp_path / "site"
    site.mkdir()
    begin = command("tiny", *wrapping("faults"), folder=folder)
    if way != "mimo-pretrain":
        place = ["--standalone"] if "--" in way else [f"--master-port={free_port()}"]
        ranks = [*place, "--nproc-per-node=2"]
        begin = [sys.executable, "-m", "torch.distributed.run", *ranks, *begin[1:]]
    fault = {"FAULT": "1 provide_batch 6 wait", "FAULT_TIME": str(when)}
    more = {"PYTHONPATH": str(installed("faults", site)), "COLUMNS": "120"}
    with ExitStack() as stack, (tmp_path / "screen").open("w+") as screen:
        run = subprocess.Popen(
            begin, env=os.environ | fault | more, stdout=screen, stderr=subprocess.STDOUT
        )
        stack.callback(run.wait)
        stack.callback(run.kill)
        disturbed: Sockets = {}
        end = time.monotonic() + TIMEOUT
        while not pipe.exists():
            assert run.poll() is None and time.monotonic() < end, Path(screen.name).read_text()
            for address, name in listening(folder).items():
                if address not in disturbed:
                    disturbed[address] = name
                    disturb(address, stack)
        during = listening(folder)
        for address in during:
            disturb(address, stack)
        for name in unix_sockets(folder):
            assert not name.startswith("@")
            assert stat.S_IMODE(Path(name).parent.stat().st_mode) == 0o700
        pipe.write_text("go on")
        run.wait(TIMEOUT)
        done = Run(
            folder=folder, code=run.returncode, screen=Path(screen.name).read_text(), errors=""
        )
    assert done.code == 0, done.screen
    assert done.losses == tiny.losses and done.norms == tiny.norms
    of_rank = [sum(name == f"mimo rank {rank}" for name in during.values()) for rank in (0, 1)]
    # Hub and Gloo of rank 0, and Gloo of rank 1; rank 0 serves the store if torchrun does not.
    store = way == "mimo-pretrain"
    assert of_rank[0] >= 2 + store and of_rank[1] >= 1, during
    elsewhere = {
        name
        for (address, _), name in [*during.items(), *disturbed.items()]
        if address not in ("127.0.0.1", "::1")
    }
    # The store of torchrun's agent listens on all interfaces.
    assert not any(store or name.startswith("mimo rank") for name in elsewhere), elsewhere
