"""Where the ranks are watched: rank 0 holds a connection to each and sees it break.

The kernel closes a process's connections however it ends, so a rank that is killed, crashes or
leaves is seen at once, by its number, without heartbeats that a busy rank would miss. A machine
that is lost is seen by TCP's own probes (:func:`watched`).
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import socket
import threading
import time
from contextlib import suppress
from typing import Any

import attrs

from mimo_core.launch.failure import Failure
from mimo_core.run_folder import RunFolder

_LOOPBACK = ("127.0.0.1", "localhost")
_SILENT = (
    "ended without a word: it was killed, crashed or left; the system kills where memory is "
    "short (see dmesg on its machine)"
)


def watched(connection: socket.socket) -> socket.socket:
    """Have TCP probe a connection that is idle: a lost machine is seen within 15 seconds."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 5)):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return connection


def close_in_child(connection: socket.socket) -> None:
    """Close a forked child's copy, so that it does not outlive the rank that the child is of."""
    with suppress(OSError):
        os.close(connection.detach())


def _allow_files(count: int) -> None:
    """Open files for a connection a rank, beside those of the store, which may be here too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


@attrs.define(eq=False)
class _Member:
    connection: socket.socket
    rank: int | None = None
    label: str = ""
    screen: int = 0
    done: bool = False
    received: bytes = b""


class Hub:
    """Hears all ranks, and tells all of them the first failure. One thread of rank 0.

    A rank sends lines of JSON: ``{"join": rank, "screen": screen}``, then ``{"label": label}``,
    and ``{"failure": …}`` or ``{"done": true}``. It receives ``{"folder": …}`` when all have
    joined, and ``{"failure": …}``.
    """

    def __init__(self, *, address: str, world_size: int, folder: RunFolder, timeout: float) -> None:
        """
        Args:
            address: By which the ranks reach this machine.
            world_size: Ranks that join.
            folder: The run's folder, which all ranks are told.
            timeout: Seconds for all ranks to join.
        """
        self._world_size = world_size
        self._folder = folder
        self._timeout = timeout
        self._members: set[_Member] = set()
        self._joined: set[int] = set()
        self._done: set[int] = set()
        self._first: Failure | None = None
        self._others_gone = threading.Event()
        if world_size == 1:
            self._others_gone.set()
        _allow_files(1024 + 2 * world_size)
        family = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)[0][0]
        place = address if address in _LOOPBACK else ""
        self._listener = socket.create_server((place, 0), family=family, backlog=world_size)
        self.port = int(self._listener.getsockname()[1])
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        os.register_at_fork(after_in_child=self._close_in_child)
        threading.Thread(target=self._serve, name="mimo hub", daemon=True).start()

    def wait_for_others(self, seconds: float | None = None) -> None:
        """Until all ranks but 0 have ended, well or not."""
        self._others_gone.wait(seconds)

    def _serve(self) -> None:
        deadline = time.monotonic() + self._timeout
        while True:
            for key, _ in self._selector.select(1.0):
                if key.data is None:
                    self._accept()
                else:
                    self._read(key.data)
            if len(self._joined) < self._world_size and time.monotonic() > deadline:
                self._judge(self._absent())

    def _accept(self) -> None:
        with suppress(OSError):
            member = _Member(watched(self._listener.accept()[0]))
            member.connection.settimeout(1.0)
            self._members.add(member)
            self._selector.register(member.connection, selectors.EVENT_READ, member)

    def _read(self, member: _Member) -> None:
        try:
            received = member.connection.recv(65536)
        except OSError:
            received = b""
        if not received:
            self._lose(member)
            return
        *lines, member.received = (member.received + received).split(b"\n")
        try:
            for line in lines:
                self._hear(member, json.loads(line))
        except (ValueError, KeyError, TypeError):
            self._lose(member)  # no rank speaks so: a stray connection

    def _hear(self, member: _Member, said: dict[str, Any]) -> None:
        if "join" in said:
            member.rank, member.screen = int(said["join"]), int(said["screen"])
            member.label = f"rank {member.rank}"
            self._joined.add(member.rank)
            if self._first is not None:
                self._send(member, {"failure": attrs.asdict(self._first)})
            elif len(self._joined) == self._world_size:
                self._send_all({"folder": str(self._folder.path)})
        elif "label" in said:
            member.label = str(said["label"])
        elif "done" in said:
            member.done = True
            self._note_end(member)
        elif "failure" in said:
            self._judge(Failure(**said["failure"]))

    def _lose(self, member: _Member) -> None:
        self._selector.unregister(member.connection)
        member.connection.close()
        self._members.discard(member)
        if member.rank is not None and not member.done:
            self._judge(
                Failure(
                    rank=member.rank,
                    label=member.label,
                    message=_SILENT,
                    log=str(self._folder.log(member.rank)),
                    silent=True,
                    screen=member.screen,
                )
            )
        self._note_end(member)

    def _note_end(self, member: _Member) -> None:
        if member.done and member.rank is not None:
            self._done.add(member.rank)
        others = {one for one in self._members if one.rank and not one.done}
        ended_well = self._done >= set(range(1, self._world_size))
        if ended_well or (self._first is not None and not others):
            self._others_gone.set()

    def _judge(self, failure: Failure) -> None:
        """The first failure is the run's; what follows from it is not told."""
        if self._first is None:
            self._first = failure
            self._send_all({"failure": attrs.asdict(failure)})

    def _absent(self) -> Failure:
        absent = sorted(set(range(self._world_size)) - self._joined)
        return Failure(
            rank=absent[0],
            label=f"rank {absent[0]}",
            message=f"ranks {absent} did not appear within {self._timeout:.0f} s; see what their "
            "machines say of them",
            log=None,
            expected=True,
        )

    def _send_all(self, message: dict[str, Any]) -> None:
        for member in list(self._members):
            self._send(member, message)

    def _send(self, member: _Member, message: dict[str, Any]) -> None:
        with suppress(OSError):
            member.connection.sendall(json.dumps(message).encode() + b"\n")

    def _close_in_child(self) -> None:
        for connection in (self._listener, *(member.connection for member in self._members)):
            close_in_child(connection)
