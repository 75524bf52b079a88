"""The side that asks: starts a nursery, has it start children, and hears how they end."""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import attrs

from mimo_core.utils.environment import THREADS

PATH = "MIMO_NURSERY_PATH"
"""The nursery's ``sys.path`` (JSON)."""
PROGRAM = "_MIMO_NURSERY"
"""Arguments that have Python be a nursery in place of this package: for tests, which start many
runs one after the other. No variable for users."""
_LOOK = 0.5
"""Seconds between two looks at children themselves."""
_PATIENCE = 60.0
"""Seconds that a nursery has to report a child that has ended, or to end where it was killed."""
_STOPPED_PATIENCE = 3.0
"""The same for a nursery that a signal has stopped."""


class ForkServerError(RuntimeError):
    """A nursery is gone, and cannot start a child."""


@attrs.define(eq=False)
class ForkedProcess:
    """A process of a nursery; leads a process group of its own. As ``subprocess.Popen``."""

    nursery: ForkServer
    pid: int
    returncode: int | None = None
    """Exit status; the negative number of the signal that ended it; ``None`` while it runs."""

    def poll(self) -> int | None:
        """Whether it has ended, and how."""
        if self.returncode is None:
            self.nursery.hear()
        return self.returncode

    def wait(self, timeout: float = math.inf) -> int | None:
        """Until it has ended, or so many seconds have passed: then ``None``."""
        end = time.monotonic() + timeout
        while self.returncode is None and time.monotonic() < end:
            self.nursery.hear(wait=True)
        return self.returncode

    def terminate(self) -> None:
        """Send it SIGTERM, if it still runs."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def kill_group(self) -> None:
        """End it, and whatever it left behind: its process group outlives it."""
        if self.returncode is None:
            # It may be too young to lead a group.
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


class ForkServer:
    """A process that has imported what ranks need, and makes children of itself."""

    def __init__(self, warm: Sequence[str], told: str = "") -> None:
        """Starts it and does not wait: it imports while this process goes on.

        Args:
            warm: Modules to import, where this machine has no GPU; where it has, torch alone.
            told: Put on its command line, for those who look at processes.
        """
        ours, theirs = socket.socketpair()
        # As this process has it, and without the working directory, which -m would put first.
        program = os.environ.get(PROGRAM, "-P -m mimo_core.launch.fork_server")
        command = [sys.executable, *shlex.split(program), str(theirs.fileno()), ",".join(warm)]
        self._process = subprocess.Popen(
            [*command, *([told] if told else [])],
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            # Threads before a fork are lost in it.
            env={
                **os.environ,
                THREADS: os.environ.get(THREADS) or "1",
                PATH: json.dumps(sys.path),
            },
        )
        theirs.close()
        self._socket = ours
        self._received = b""
        self._children: dict[int, ForkedProcess] = {}
        self._started: list[ForkedProcess] = []
        self._next_look = 0.0
        self._untold: dict[int, float] = {}
        self.silent = False
        """Whether it did not tell of a child that has ended: it is stopped, and of no use."""

    def start(
        self,
        call: str,
        argv: Sequence[str],
        environ: Mapping[str, str],
        *,
        name: str,
        log: Path | None = None,
    ) -> ForkedProcess:
        """Start a child; waits until the nursery has imported what it should.

        Args:
            call: ``package.module:function`` to call, without arguments.
            argv: Its command line, as ``sys.argv`` has it.
            environ: Its whole environment.
            name: Of the process (15 characters at most are shown).
            log: File that takes its output; by default it goes where this process's goes.

        Raises:
            ForkServerError: no child can be started.
        """
        asked: dict[str, Any] = {
            "call": call,
            "argv": [*argv],
            "environ": {**environ},
            "name": name,
            "log": None if log is None else str(log),
            "path": sys.path,
        }
        self._socket.setblocking(True)
        with suppress(ConnectionError):
            self._socket.sendall(json.dumps(asked).encode() + b"\n")
        while not self._started:
            if not self.hear(wait=True):
                status = self._process.wait()
                how = f"signal {-status}" if status < 0 else f"exit code {status}"
                raise ForkServerError(
                    f"the process that imports torch for all ranks ended with {how} before it "
                    f"could start them ({' '.join(self._process.args)})"  # type: ignore[arg-type]
                )
        return self._started.pop()

    def hear(self, wait: bool = False) -> bool:
        """Take in what the nursery says; false where it has ended, and all children with it."""
        self._socket.settimeout(_LOOK if wait else 0.0)
        try:
            received = self._socket.recv(65536)
        except (BlockingIOError, TimeoutError):
            self._look()
            return True
        except ConnectionResetError:
            received = b""
        if not received:
            for child in self._children.values():
                if child.returncode is None:
                    child.returncode = -signal.SIGKILL
            return False
        *lines, self._received = (self._received + received).split(b"\n")
        for line in lines:
            self._take(json.loads(line))
        return True

    @property
    def ended(self) -> bool:
        """Whether it is gone, and a new one must be made."""
        return self._process.poll() is not None

    def close(self) -> None:
        """End it with all its children."""
        self._socket.close()
        for child in self._children.values():
            if child.returncode is None:
                child.kill_group()
        self.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)

    def kill(self) -> None:
        """End it, and by that its children: the kernel ends them with it (Linux)."""
        self._process.kill()

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _look(self) -> None:
        """See for itself which children have ended, where a stopped nursery does not tell."""
        now = time.monotonic()
        if sys.platform != "linux" or now < self._next_look:
            return
        self._next_look = now + _LOOK
        for pid, child in self._children.items():
            if child.returncode is not None or (code := _status(pid)) is None:
                continue
            patience = _STOPPED_PATIENCE if self._is_stopped() else _PATIENCE
            if self.silent or now - self._untold.setdefault(pid, now) > patience:
                child.returncode, self.silent = code, True

    def _is_stopped(self) -> bool:
        """Whether a signal or a debugger has stopped the nursery (Linux)."""
        with suppress(OSError):
            stat = Path(f"/proc/{self._process.pid}/stat").read_text(
                encoding="utf-8", errors="replace"
            )
            return stat.rpartition(")")[2].split()[0] in "Tt"
        return False

    def _take(self, said: dict[str, Any]) -> None:
        pid = said["pid"]
        if "code" in said:
            self._children[pid].returncode = said["code"]
        else:
            child = self._children[pid] = ForkedProcess(self, pid)
            self._started.append(child)


def _status(pid: int) -> int | None:
    """How a child ended that its parent has not asked for (Linux); ``None`` where it runs. Killed,
    where its parent has, and kept it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        state, *fields = stat.rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return -signal.SIGKILL
    return os.waitstatus_to_exitcode(int(fields[48])) if state == "Z" else None
