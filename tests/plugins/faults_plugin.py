"""A plugin that fails where a test wants it to; installed by the tests that use it.

``FAULT`` is ``RANK PLACE NUMBER DEED``: at the NUMBER-th time that the rank comes to the place (the
import, or a hook that this plugin wraps), the deed is done. ``FAULT_TIME`` is a file for when.
"""

import os
import resource
import signal
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import psutil

import mimo_core as mimo

mimo_contract = "1.0"

RANK, PLACE, NUMBER, DEED = os.environ["FAULT"].split()
_times = 0


def come_to(place: str) -> None:
    """Fail, if it is time."""
    global _times  # noqa: PLW0603
    if os.environ.get("RANK") != RANK or place != PLACE:
        return
    _times += 1
    if _times != int(NUMBER):
        return
    Path(os.environ["FAULT_TIME"]).write_text(str(time.time()))
    match DEED:
        case "raise":
            raise RuntimeError("planted fault")
        case "exit":
            os._exit(3)
        case "quit":
            sys.exit(0)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hang":
            time.sleep(1000)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "wait":
            pipe = Path(os.environ["FAULT_TIME"] + ".pipe")
            os.mkfifo(pipe)
            pipe.read_text()
        case "terminate":
            terminate_all()
        case "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))


def terminate_all() -> None:
    """SIGTERM to every process of the job, the launcher and this one included, as SLURM does."""
    launcher = psutil.Process().parent()
    while launcher is not None and "mimo_core.launch.fork_server" in launcher.cmdline():
        # Ranks and their workers have the command line of the process that they are forked from.
        launcher = launcher.parent()
    assert launcher is not None
    for process in [launcher, *launcher.children(recursive=True)]:
        process.terminate()


come_to("import")


@mimo.hookimpl(wrapper=True)
def build_submodule(module: mimo.ModuleConfig, groups: Any, platform: mimo.Platform) -> Generator:
    come_to("build_submodule")
    return (yield)


@mimo.hookimpl(wrapper=True)
def provide_batch(module: mimo.ModuleConfig, samples: Any, context: mimo.BatchContext) -> Generator:
    come_to("provide_batch")
    return (yield)
