"""The nursery itself: imports, then forks a child for every line that it is sent."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import signal
import socket
import sys
import threading
import traceback
import warnings
from collections.abc import Iterable, Iterator
from multiprocessing import util
from typing import Any

from mimo_core import platforms
from mimo_core.launch.fork_server.client import PATH

_PAUSE = 0.02
_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_DEFAULT = {signal.SIGINT: signal.default_int_handler}
_SET_PARENT_DEATH_SIGNAL, _SET_NAME = 1, 15


def main() -> None:
    """Serve the process that started this one until that ends, or closes its socket."""
    begin()
    asker = socket.socket(fileno=int(sys.argv[1]))
    import_all(name for name in sys.argv[2].split(",") if name)
    serve(asker)


def begin() -> None:
    """Be a nursery, in this process: with the path of the one that asked for it."""
    # A scheduler may tell every process of a job to stop; when this one does is its asker's to say.
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    _end_with_the_parent()
    sys.path[:] = json.loads(os.environ.pop(PATH))


def import_all(warm: Iterable[str]) -> None:
    """What fails here fails again in the children, who tell it as ranks do.

    Packages that warn of others that are not installed are not heard. What is imported stays:
    looking for garbage in it, again and again, would take a fifth of the time.
    """
    gc.disable()
    with contextlib.suppress(Exception), _silence():
        if platforms.without_gpu():
            platforms.select()
            for name in warm:
                importlib.import_module(name)
        else:
            importlib.import_module("torch")
    gc.enable()
    gc.collect()
    gc.freeze()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    kept = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in (1, 2):
            os.dup2(nowhere, number)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, old in enumerate(kept, start=1):
            os.dup2(old, number)
            os.close(old)
        os.close(nowhere)


def serve(asker: socket.socket) -> None:
    """Fork what is asked for, until the asker is gone or closes its socket."""
    with contextlib.suppress(ConnectionError):
        _serve(asker)


def _serve(asker: socket.socket) -> None:
    asker.settimeout(_PAUSE)
    received = b""
    running = 0
    while True:
        try:
            more = asker.recv(1 << 20)
            if not more:
                return
            received += more
        except TimeoutError:
            pass
        *lines, received = received.split(b"\n")
        for line in lines:
            _tell(asker, pid=_fork(asker, json.loads(line)))
            running += 1
        while running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            running -= 1
            _tell(asker, pid=pid, code=os.waitstatus_to_exitcode(status))


def _tell(asker: socket.socket, **said: int) -> None:
    asker.settimeout(None)
    asker.sendall(json.dumps(said).encode() + b"\n")
    asker.settimeout(_PAUSE)


def _fork(asker: socket.socket, asked: dict[str, Any]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    # What comes before the child can take it waits.
    signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED)
    with warnings.catch_warnings():
        # Its threads are those of matrix libraries, which stop them for a fork.
        warnings.filterwarnings("ignore", ".*multi-threaded", DeprecationWarning)
        pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _IGNORED)
        return pid
    code = 1
    try:
        asker.close()
        code = _child(asked)
    except BaseException:
        traceback.print_exc()
    finally:
        _leave(code)
    raise AssertionError


def _child(asked: dict[str, Any]) -> int:
    """Be the process that was asked for, to its end; gives its exit status."""
    for number in _IGNORED:
        signal.signal(number, _DEFAULT.get(number, signal.SIG_DFL))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _IGNORED)
    os.setsid()
    _end_with_the_parent()
    ctypes.CDLL(None).prctl(_SET_NAME, asked["name"].encode()[:15])
    os.environ.clear()
    os.environ.update(asked["environ"])
    sys.argv = asked["argv"]
    sys.path[:] = asked["path"]
    if asked["log"] is not None:
        with open(asked["log"], "wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
    module, _, name = asked["call"].partition(":")
    try:
        getattr(importlib.import_module(module), name)()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    return 0


def _leave(code: int) -> None:
    """End as an interpreter does: threads end, what was registered for the end runs, and output is
    written."""
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
    with contextlib.suppress(BaseException):
        util._exit_function()  # type: ignore[attr-defined]
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
    os._exit(code)


def _end_with_the_parent() -> None:
    """Have the kernel end this process where its parent is gone (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


if __name__ == "__main__":
    main()
