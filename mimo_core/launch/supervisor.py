"""Where the ranks are watched: rank 0 holds a connection to each and sees it break.

The kernel closes a process's connections however it ends, so a rank that is killed, crashes or
leaves is seen at once, by its number, without heartbeats that a busy rank would miss. A machine
that is lost is seen by TCP's own probes (:func:`watched`).
"""

from __future__ import annotations

import errno
import os
import resource
import selectors
import socket
import threading
import time
import traceback
from contextlib import suppress
from typing import Any

import attrs

from mimo_core.launch.failure import Failure
from mimo_core.launch.heartbeat import Limits, Monitor
from mimo_core.launch.protocol import (
    LONGEST_LINE,
    LONGEST_TOKEN,
    Lines,
    Malformed,
    decode,
    encode,
    integer,
    same_token,
)
from mimo_core.launch.store import LOOPBACK
from mimo_core.reporting.run_directory import RunDirectory

_STRANGERS = 64
"""Connections without a token that are open beside one for each rank; a new one closes the oldest.
A rank whose connection is closed so connects again."""
_TOKEN_SECONDS = 10.0
"""Time for a connection to send the token; a rank sends it as soon as it has connected."""
_PAUSE_SECONDS = 0.1
"""Pause after an error of the hub itself, such as a lack of file descriptors."""
_NETWORK = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN)
"""Errors of a connection whose other end has not closed it."""
ABSENT = "launch.absent-ranks"
_CUT_OFF = "cannot be reached any more: its machine or the network to it is down"
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
class _RankConnection:
    connection: socket.socket
    since: float
    lines: Lines = attrs.field(factory=lambda: Lines(LONGEST_TOKEN))
    trusted: bool = False
    """Whether it has sent the run's token."""
    rank: int | None = None
    label: str = ""
    screen: int = 0
    done: bool = False


class Supervisor:
    """Receives messages of all ranks, and sends the first failure to all of them. One thread of
    rank 0. ``launch/protocol.py`` describes the messages.

    A connection that has not sent the run's token can cause nothing: it is closed when it sends
    anything else, is too slow, or is one of too many. No exception ends the thread.
    """

    def __init__(
        self, *, address: str, world_size: int, folder: RunDirectory, timeout: float, token: str
    ) -> None:
        """
        Args:
            address: By which the ranks reach this machine. If it is the loopback, no other machine
                reaches the hub.
            world_size: Ranks that join.
            folder: The run's folder, which all ranks are told.
            timeout: Seconds for all ranks to join.
            token: The run's token.
        """
        self._world_size = world_size
        self._folder = folder
        self._timeout = timeout
        self._token = token
        self._members: set[_RankConnection] = set()
        self._joined: set[int] = set()
        self._done: set[int] = set()
        self._first: Failure | None = None
        self._monitor: Monitor | None = None
        self._local = address == LOOPBACK
        self._others_gone = threading.Event()
        if world_size == 1:
            self._others_gone.set()
        _allow_files(1024 + 2 * world_size)
        family = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)[0][0]
        place = LOOPBACK if address == LOOPBACK else ""
        self._listener = socket.create_server((place, 0), family=family, backlog=world_size)
        self._listener.setblocking(False)
        self.port = int(self._listener.getsockname()[1])
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        os.register_at_fork(after_in_child=self._close_in_child)
        threading.Thread(target=self._serve, name="mimo hub", daemon=True).start()

    def expect_heartbeats(self, limits: Limits) -> None:
        """From here on a rank that has sent a heartbeat must send others."""
        self._monitor = Monitor(limits, local=self._local)

    def wait_for_others(self, seconds: float | None = None) -> None:
        """Until all ranks but 0 have ended, well or not."""
        self._others_gone.wait(seconds)

    def _serve(self) -> None:
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                self._turn(deadline)
            except Exception:
                _report()
                time.sleep(_PAUSE_SECONDS)

    def _turn(self, deadline: float) -> None:
        monitor = self._monitor
        pause = 1.0 if monitor is None else min(1.0, monitor.limits.interval)
        for key, _ in self._selector.select(pause):
            if key.data is None:
                self._accept()
            elif key.data in self._members:
                self._read(key.data)
        now = time.monotonic()
        for stranger in self._strangers():
            if now > stranger.since + _TOKEN_SECONDS:
                self._close(stranger)
        if len(self._joined) < self._world_size and now > deadline:
            self._judge(self._absent())
        if monitor is not None:
            self._look_at(monitor)

    def _look_at(self, monitor: Monitor) -> None:
        """Send heartbeats, and end the run if a rank is hung."""
        if monitor.is_due():
            self._send_all({"beat": {}})
        hung = monitor.hung()
        if hung is None:
            return
        monitor.forget(hung[0])
        for member in [one for one in self._members if one.rank == hung[0]]:
            self._judge(self._failure_of(member, hung[1], hung=True))

    def _accept(self) -> None:
        strangers = self._strangers()
        if len(strangers) >= self._world_size + _STRANGERS:
            self._close(min(strangers, key=lambda stranger: stranger.since))
        try:
            connection = self._listener.accept()[0]
        except (BlockingIOError, ConnectionError):
            return
        try:
            connection.settimeout(1.0)
            member = _RankConnection(watched(connection), time.monotonic())
            self._selector.register(connection, selectors.EVENT_READ, member)
        except Exception:
            connection.close()
            raise
        self._members.add(member)

    def _strangers(self) -> list[_RankConnection]:
        return [member for member in self._members if not member.trusted]

    def _read(self, member: _RankConnection) -> None:
        """Handle what has arrived. Whatever is wrong with it, only this connection ends by it."""
        message = _SILENT
        try:
            received = member.connection.recv(65536)
        except OSError as error:
            received = b""
            if error.errno in _NETWORK:
                message = f"{_CUT_OFF} ({error.strerror})"
        if not received:
            self._lose(member, message)
            return
        try:
            member.lines.add(received)
            while (line := member.lines.next()) is not None:
                if member.trusted:
                    self._handle(member, decode(line))
                elif same_token(line, self._token):
                    member.trusted, member.lines.longest = True, LONGEST_LINE
                else:
                    raise Malformed("another token")
        except Malformed as error:
            if not member.trusted:
                self._refuse(member, "it did not send the token of this run")
                return
            self._lose(member, f"sent a message that rank 0 cannot read ({error})")
        except Exception as error:
            _report()
            self._lose(member, f"sent a message that rank 0 failed on ({type(error).__name__})")

    def _handle(self, member: _RankConnection, message: dict[str, Any]) -> None:
        if "join" in message:
            self._join(member, message)
        elif member.rank is None:
            raise Malformed("a message before the rank has joined")
        elif "beat" in message:
            if self._monitor is not None and not member.done:
                self._monitor.take(member.rank, message["beat"])
        elif "label" in message:
            member.label = str(message["label"])
        elif "done" in message:
            member.done = True
            self._note_end(member)
        elif "failure" in message:
            self._judge(Failure.from_message(message["failure"], self._folder))

    def _join(self, member: _RankConnection, message: dict[str, Any]) -> None:
        if member.rank is not None:
            raise Malformed("joins again")
        rank = integer(message, "join", 0, self._world_size - 1)
        screen = integer(message, "screen", 0, 1 << 31)
        if any(other.rank == rank for other in self._members):
            self._refuse(member, f"there is a rank {rank} already; is RANK set twice to {rank}?")
            return
        member.rank, member.screen = rank, screen
        member.label = f"rank {rank}"
        self._joined.add(rank)
        if self._first is not None:
            self._send(member, {"failure": attrs.asdict(self._first)})
        elif len(self._joined) == self._world_size:
            self._send_all({"folder": str(self._folder.path)})

    def _refuse(self, member: _RankConnection, cause: str) -> None:
        self._send(member, {"refused": cause})
        self._close(member)

    def _close(self, member: _RankConnection) -> None:
        self._members.discard(member)
        with suppress(KeyError, ValueError, OSError):
            self._selector.unregister(member.connection)
        with suppress(OSError):
            member.connection.close()

    def _lose(self, member: _RankConnection, message: str) -> None:
        self._close(member)
        if member.rank is not None and not member.done:
            self._judge(self._failure_of(member, message))
        self._note_end(member)

    def _failure_of(self, member: _RankConnection, message: str, *, hung: bool = False) -> Failure:
        """The failure of a rank that cannot report it."""
        assert member.rank is not None
        return Failure(
            rank=member.rank,
            label=member.label,
            message=message,
            log=str(self._folder.log(member.rank)),
            silent=True,
            hung=hung,
            screen=member.screen,
        )

    def _note_end(self, member: _RankConnection) -> None:
        if self._monitor is not None and member.rank is not None:
            self._monitor.forget(member.rank)
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
            f"machines say of them [{ABSENT}]",
            log=None,
            expected=True,
            error_code=ABSENT,
        )

    def _send_all(self, message: dict[str, Any]) -> None:
        """To all ranks that have joined."""
        for member in [member for member in self._members if member.rank is not None]:
            self._send(member, message)

    def _send(self, member: _RankConnection, message: dict[str, Any]) -> None:
        with suppress(OSError):
            member.connection.sendall(encode(message))

    def _close_in_child(self) -> None:
        for connection in (self._listener, *(member.connection for member in self._members)):
            close_in_child(connection)


def _report() -> None:
    """Leave the current exception in the log of rank 0, if that can be written."""
    with suppress(Exception):
        traceback.print_exc()
