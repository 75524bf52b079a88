"""What ``test_nursery`` has children do."""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
from pathlib import Path


def tell() -> None:
    """What a process sees of itself."""
    Path(sys.argv[1]).write_text(
        json.dumps(
            {
                "argv": sys.argv[1:],
                "rank": os.environ.get("RANK"),
                "inherited": os.environ.get("OF_THE_PARENT"),
                "leads": os.getpid() == os.getpgrp() == os.getsid(0),
                "name": Path("/proc/self/comm").read_text().strip(),
                "collects": gc.isenabled(),
                "torch": "torch" in sys.modules,
                "cuda": "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized(),
            }
        )
    )
    print("told")


def leave() -> None:
    sys.exit(int(sys.argv[1]))


def leave_later() -> None:
    time.sleep(1.0)
    leave()


def complain() -> None:
    sys.exit("this cannot be")


def fail() -> None:
    raise KeyError("lost")


def linger() -> None:
    """Leaves the writing to a thread."""

    def write() -> None:
        time.sleep(0.3)
        Path(sys.argv[1]).write_text("written")

    threading.Thread(target=write).start()


def stay() -> None:
    threading.Event().wait()
