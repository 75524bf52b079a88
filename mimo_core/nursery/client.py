"""The side that asks: starts a nursery, has it start children, and hears how they end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import attrs

PATH = "MIMO_NURSERY_PATH"
"""The nursery's ``sys.path`` (JSON)."""


class NurseryEnded(RuntimeError):
    """A nursery is gone, and cannot start a child."""


@attrs.define(eq=False)
class Child:
    """A process of a nursery; leads a process group of its own. As ``subprocess.Popen``."""

    nursery: Nursery
    pid: int
    returncode: int | None = None
    """Exit status; the negative number of the signal that ended it; ``None`` while it runs."""

    def poll(self) -> int | None:
        """Whether it has ended, and how."""
        if self.returncode is None:
            self.nursery.hear()
        return self.returncode

    def wait(self) -> int:
        """Until it has ended."""
        while self.returncode is None:
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


class Nursery:
    """A process that has imported what ranks need, and makes children of itself."""

    def __init__(self, warm: Sequence[str], told: str = "") -> None:
        """Starts it and does not wait: it imports while this process goes on.

        Args:
            warm: Modules to import, where this machine has no GPU; where it has, torch alone.
            told: Put on its command line, for those who look at processes.
        """
        ours, theirs = socket.socketpair()
        # As this process has it, and without the working directory, which -m would put first.
        command = [sys.executable, "-P", "-m", "mimo_core.nursery", str(theirs.fileno())]
        command.append(",".join(warm))
        self._process = subprocess.Popen(
            [*command, *([told] if told else [])],
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            # Threads before a fork are lost in it.
            env={
                **os.environ,
                "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
                PATH: json.dumps(sys.path),
            },
        )
        theirs.close()
        self._socket = ours
        self._received = b""
        self._children: dict[int, Child] = {}
        self._started: list[Child] = []

    def start(
        self,
        call: str,
        argv: Sequence[str],
        environ: Mapping[str, str],
        *,
        name: str,
        log: Path | None = None,
    ) -> Child:
        """Start a child; waits until the nursery has imported what it should.

        Args:
            call: ``package.module:function`` to call, without arguments.
            argv: Its command line, as ``sys.argv`` has it.
            environ: Its whole environment.
            name: Of the process (15 characters at most are shown).
            log: File that takes its output; by default it goes where this process's goes.

        Raises:
            NurseryEnded: no child can be started.
        """
        asked: dict[str, Any] = {
            "call": call,
            "argv": [*argv],
            "environ": {**environ},
            "name": name,
        }
        asked |= {"name": name, "log": None if log is None else str(log), "path": sys.path}
        self._socket.setblocking(True)
        with suppress(ConnectionError):
            self._socket.sendall(json.dumps(asked).encode() + b"\n")
        while not self._started:
            if not self.hear(wait=True):
                status = self._process.wait()
                how = f"signal {-status}" if status < 0 else f"exit code {status}"
                raise NurseryEnded(
                    f"the process that imports torch for all ranks ended with {how} before it "
                    f"could start them ({' '.join(self._process.args)})"  # type: ignore[arg-type]
                )
        return self._started.pop()

    def hear(self, wait: bool = False) -> bool:
        """Take in what the nursery says; false where it has ended, and all children with it."""
        self._socket.setblocking(wait)
        try:
            received = self._socket.recv(65536)
        except BlockingIOError:
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
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Nursery:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _take(self, said: dict[str, Any]) -> None:
        pid = said["pid"]
        if "code" in said:
            self._children[pid].returncode = said["code"]
        else:
            child = self._children[pid] = Child(self, pid)
            self._started.append(child)
