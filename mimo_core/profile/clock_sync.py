"""How far the clocks of two machines are apart, by messages that are timed.

``time.perf_counter`` is one clock for all processes of a machine. For another machine's, one
process there asks rank 0's for its time again and again. An answer that took ``d`` seconds there
and back was read somewhere in between, so taking the middle is wrong by ``d / 2`` at most, and the
quickest answer is the best. (F. Cristian, "Probabilistic clock synchronization", Distributed
Computing 3, 1989.)
"""

from __future__ import annotations

import hmac
import os
import secrets
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import attrs

from mimo_core.errors import MimoError

Clock = Callable[[], float]
_TIME = struct.Struct("!d")
_ROUNDS = 100
_TIMEOUT = 30.0
_TOKEN_BYTES = 32
_STRANGERS = 64
"""Connections without a token that are open; a new one closes the oldest."""
_PAUSE = 0.01
"""Seconds after an error, such as a lack of file descriptors."""


@attrs.frozen(kw_only=True)
class Offset:
    """From one clock to another."""

    seconds: float
    """To be added to the one's time."""
    error: float
    """By which the sum may be wrong."""


SAME = Offset(seconds=0.0, error=0.0)


def machine() -> str:
    """Processes that are told the same have one ``time.perf_counter``."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/time')}"
    except OSError:
        return f"{socket.gethostname()} {os.getpid()}"


class ClockServer:
    """Answers every token with this process's time, until it is closed.

    Other machines can connect to it. A connection that sends anything but the token, sends nothing
    for 30 seconds, or is one of too many without a token, is closed, and delays no other.
    """

    def __init__(self, clock: Clock = time.perf_counter, family: int = socket.AF_INET) -> None:
        self._clock = clock
        self._closed = False
        self._strangers: deque[socket.socket] = deque()
        """Connections that have not sent the token yet, the oldest first."""
        self._listener = socket.create_server(("", 0), family=family)
        self.port = int(self._listener.getsockname()[1])
        self.token = secrets.token_bytes(_TOKEN_BYTES)
        """What a question consists of."""
        threading.Thread(target=self._serve, name="mimo clock", daemon=True).start()

    def close(self) -> None:
        """Answer no more."""
        self._closed = True
        # A thread that waits in accept() is woken by this, not by close().
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while not self._closed:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                time.sleep(_PAUSE)
                continue
            if len(self._strangers) >= _STRANGERS:
                with suppress(OSError, IndexError):
                    self._strangers.popleft().shutdown(socket.SHUT_RDWR)
            self._strangers.append(connection)
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            _at_once(connection)
            while hmac.compare_digest(_received(connection, _TOKEN_BYTES), self.token):
                connection.sendall(_TIME.pack(self._clock()))
                with suppress(ValueError):
                    self._strangers.remove(connection)
        with suppress(ValueError):
            self._strangers.remove(connection)


def measure(address: str, port: int, token: bytes, clock: Clock = time.perf_counter) -> Offset:
    """From this process's clock to that of the :class:`ClockServer` there, which has this token.

    Raises:
        MimoError: it cannot be reached.
    """
    try:
        with socket.create_connection((address, port), _TIMEOUT) as connection:
            _at_once(connection)
            return min(
                (_ask(connection, token, clock) for _ in range(_ROUNDS)),
                key=lambda offset: offset.error,
            )
    except OSError as error:
        raise MimoError(
            f"the clock of rank 0 cannot be read at {address}:{port} ({error}): a profile relates "
            "the clocks of machines through a port that rank 0's machine gives; open its ports to "
            "the others, or set profile.enabled to false",
            code="launch.clock-unreachable",
            address=f"{address}:{port}",
        ) from error


def _ask(connection: socket.socket, token: bytes, clock: Clock) -> Offset:
    asked = clock()
    connection.sendall(token)
    answer = _received(connection, _TIME.size)
    answered = clock()
    (there,) = _TIME.unpack(answer)
    return Offset(seconds=there - (asked + answered) / 2, error=(answered - asked) / 2)


def _received(connection: socket.socket, size: int) -> bytes:
    """So many bytes.

    Raises:
        OSError: the connection ended before.
    """
    received = b""
    while len(received) < size:
        more = connection.recv(size - len(received))
        if not more:
            raise OSError("the connection ended")
        received += more
    return received


def _at_once(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.settimeout(_TIMEOUT)
