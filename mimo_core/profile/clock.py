"""How far the clocks of two machines are apart, by messages that are timed.

``time.perf_counter`` is one clock for all processes of a machine. For another machine's, one
process there asks rank 0's for its time again and again. An answer that took ``d`` seconds there
and back was read somewhere in between, so taking the middle is wrong by ``d / 2`` at most, and the
quickest answer is the best. (F. Cristian, "Probabilistic clock synchronization", Distributed
Computing 3, 1989.)
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import attrs

Clock = Callable[[], float]
_TIME = struct.Struct("!d")
_ROUNDS = 100
_TIMEOUT = 30.0


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
    """Answers every byte with this process's time, until it is closed."""

    def __init__(self, clock: Clock = time.perf_counter, family: int = socket.AF_INET) -> None:
        self._clock = clock
        self._listener = socket.create_server(("", 0), family=family)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._serve, name="mimo clock", daemon=True).start()

    def close(self) -> None:
        """Answer no more."""
        # A thread that waits in accept() is woken by this, not by close().
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                # One at a time: another's questions would only make answers late.
                with self._listener.accept()[0] as connection, suppress(OSError):
                    _at_once(connection)
                    while connection.recv(1):
                        connection.sendall(_TIME.pack(self._clock()))


def measure(address: str, port: int, clock: Clock = time.perf_counter) -> Offset:
    """From this process's clock to that of the :class:`ClockServer` there.

    Raises:
        ValueError: it cannot be reached.
    """
    try:
        with socket.create_connection((address, port), _TIMEOUT) as connection:
            _at_once(connection)
            return min(
                (_ask(connection, clock) for _ in range(_ROUNDS)), key=lambda offset: offset.error
            )
    except OSError as error:
        raise ValueError(
            f"the clock of rank 0 cannot be read at {address}:{port} ({error}): a profile relates "
            "the clocks of machines through a port that rank 0's machine gives; open its ports to "
            "the others, or set profile.record to false"
        ) from error


def _ask(connection: socket.socket, clock: Clock) -> Offset:
    asked = clock()
    connection.sendall(b"?")
    answer = connection.recv(_TIME.size, socket.MSG_WAITALL)
    answered = clock()
    if len(answer) < _TIME.size:
        raise OSError("the connection ended")
    (there,) = _TIME.unpack(answer)
    return Offset(seconds=there - (asked + answered) / 2, error=(answered - asked) / 2)


def _at_once(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.settimeout(_TIMEOUT)
