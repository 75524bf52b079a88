"""Stands where a nursery would be started: has the server fork one, and ends as that ends.

``python ask.py NAME FD WARM [TOLD]``, the name of an abstract socket (Linux); imports little, as it
is started for every run.
"""

import json
import os
import socket
import sys
from contextlib import suppress


def main() -> None:
    server, asker, *_ = sys.argv[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
        asked = {"program": sys.executable, "environ": {**os.environ}, "folder": os.getcwd()}
        answer = b""
        with suppress(OSError):  # an environment too large for a message, or a server that is gone
            asking.connect(f"\0{server}")
            socket.send_fds(asking, [json.dumps(asked).encode()], [int(asker), 1, 2])
            answer = asking.recv(100)
        if answer == b"forked":
            os.close(int(asker))
            sys.exit(int(asking.recv(100) or b"1"))
    command = [sys.executable, "-P", "-m", "mimo_core.launch.fork_server", *sys.argv[2:]]
    os.execv(sys.executable, command)


main()
