"""Imports what ranks need once for all runs of a test session, and forks a nursery for each.

Each is a process of its own, as if it were started anew; what was imported is all they share. A
nursery that would import something else is not forked: its asker then starts it as users do.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import struct
import sys
from contextlib import suppress
from typing import Any

from mimo_core.launch.fork_server.__main__ import begin, import_all, serve
from mimo_core.launch.fork_server.client import PATH

_PAUSE = 0.05
_PATIENCE = 5.0
"""Seconds that an asker has to say what it asks for."""
_READ_BY_IMPORTS = (
    *("CUDA_VISIBLE_DEVICES", "HF_", "LD_", "MIMO_PLATFORM", "OMP_", "TORCH"),
    "TRITON_INTERPRET",
)
"""Beginnings of names of variables."""


def main() -> None:
    """``python server.py FD MODULE…``: serve a listening socket until the parent ends."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    os.environ[PATH] = json.dumps(sys.path)
    begin()
    own = _seen_by_imports({**os.environ})
    first = True
    asking: dict[int, socket.socket] = {}
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select(_PAUSE):
            if key.fileobj is listener:
                if first:
                    import_all(sys.argv[2:])
                first = False
                one, _ = listener.accept()
                pid = _answer(one, own, [listener, *asking.values()])
                if pid:
                    asking[pid] = one
                    selector.register(one, selectors.EVENT_READ, pid)
            else:
                # It says nothing more: it is gone, and its nursery is to go.
                selector.unregister(key.fileobj)
                os.kill(key.data, signal.SIGKILL)
        while asking:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            one = asking.pop(pid)
            if one in selector.get_map():
                selector.unregister(one)
            _say(one, str(os.waitstatus_to_exitcode(status) & 0xFF))
            one.close()


def _answer(one: socket.socket, own: dict[str, str], others: list[socket.socket]) -> int:
    """Fork what it asks for; gives the process, or 0 where it is not forked."""
    text, given = b"", []
    if _user(one) == os.getuid():
        one.settimeout(_PATIENCE)
        with suppress(OSError):
            text, given, *_ = socket.recv_fds(one, 1 << 20, 3)
    asked = json.loads(text) if len(given) == 3 else {}
    pid = 0
    if asked and asked["program"] == sys.executable and _seen_by_imports(asked["environ"]) == own:
        pid = os.fork()
        if not pid:
            for other in (one, *others):
                other.close()
            _be_nursery(asked, *given)
    for number in given:
        os.close(number)
    _say(one, "forked" if pid else "refused")
    if not pid:
        one.close()
    return pid


def _user(one: socket.socket) -> int:
    """Whose process asks: abstract sockets are open to all users of the machine."""
    _pid, user, _group = struct.unpack(
        "3i", one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    )
    return int(user)


def _seen_by_imports(environ: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in environ.items() if key.startswith(_READ_BY_IMPORTS)}


def _be_nursery(asked: dict[str, Any], asker: int, out: int, errors: int) -> None:
    try:
        os.setsid()
        os.dup2(out, 1)
        os.dup2(errors, 2)
        os.close(out)
        os.close(errors)
        os.chdir(asked["folder"])
        os.environ.clear()
        os.environ.update(asked["environ"])
        begin()
        serve(socket.socket(fileno=asker))
    finally:
        os._exit(0)


def _say(one: socket.socket, text: str) -> None:
    with suppress(ConnectionError):
        one.send(text.encode())


if __name__ == "__main__":
    main()
