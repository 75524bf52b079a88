"""Run a function on ranks of its own: real processes, real process groups, the rank's platform.

The test process itself never installs the CPU platform nor makes process groups.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mimo_core.launch.fork_server import ForkedProcess, ForkServer
from mimo_core.launch.rank_env import free_port
from mimo_core.platforms import PLATFORM_VARIABLE

WARM = ("megatron.training.training", "megatron.core.models.mimo.model.base")
"""What the nursery of functions on ranks imports, where there is no GPU."""


class RankFailure(AssertionError):
    """A rank failed; the message carries its last lines."""


def run_ranks(
    function: str, *, ranks: int = 1, timeout: float = 1800.0, **arguments: Any
) -> list[Any]:
    """Run ``function`` on ``ranks`` processes in one default process group.

    Args:
        function: ``package.module:name`` or ``/path/file.py:name``. On every rank it is called
            with ``platform`` (the rank's platform) and ``arguments``.
        arguments: JSON values.

    Returns:
        What each rank's call returned (JSON values), by rank.

    Raises:
        RankFailure: a rank raised, died, ended before the function returned, or did not end within
            ``timeout`` seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        port = free_port()
        processes = []
        nursery = _nursery(os.environ.get(PLATFORM_VARIABLE))
        for rank in range(ranks):
            environ = os.environ | {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(ranks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
                # Of processes that the rank starts by itself.
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            }
            processes.append(
                nursery.start(
                    "mimo_core.testing.rank:main",
                    ["rank", function, json.dumps(arguments), str(base / f"result-{rank}")],
                    environ,
                    name=f"test rank {rank}",
                    log=base / f"log-{rank}",
                )
            )
        try:
            _wait(processes, base, timeout)
        finally:
            for process in processes:
                process.kill_group()
                process.wait()
        return [
            json.loads((base / f"result-{rank}").read_text(encoding="utf-8"))
            for rank in range(ranks)
        ]


_nurseries: dict[str | None, ForkServer] = {}


def _nursery(platform: str | None) -> ForkServer:
    """One for all tests of a session: the first rank alone waits for imports."""
    if platform not in _nurseries or _nurseries[platform].ended:
        nursery = _nurseries[platform] = ForkServer(WARM)
        atexit.register(nursery.close)
    return _nurseries[platform]


def _wait(processes: list[ForkedProcess], logs: Path, timeout: float) -> None:
    end = time.monotonic() + timeout
    while any(process.poll() is None for process in processes):
        _raise_ended(processes, logs)
        if time.monotonic() > end:
            tails = "\n".join(
                f"--- rank {rank} ---\n{_tail(logs / f'log-{rank}')}"
                for rank in range(len(processes))
            )
            raise RankFailure(f"not done after {timeout} s\n{tails}")
        time.sleep(0.05)
    _raise_ended(processes, logs)


def _raise_ended(processes: list[ForkedProcess], folder: Path) -> None:
    """Raise where a rank ended without a result; others may wait for it."""
    for rank, process in enumerate(processes):
        code = process.poll()
        if code:
            raise RankFailure(f"rank {rank} failed:\n{_tail(folder / f'log-{rank}')}")
        if code == 0 and not (folder / f"result-{rank}").exists():
            said = f"rank {rank} ended with exit code 0 and left no result"
            raise RankFailure(f"{said}\n{_tail(folder / f'log-{rank}')}".rstrip())


def _tail(log: Path, lines: int = 60) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
