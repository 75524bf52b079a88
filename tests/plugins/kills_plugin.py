"""A plugin that kills its rank (SIGKILL) at a named point, or fills its disk; for the tests.

``KILLS`` is a list of ``RANK:POINT``, one for each attempt at the run; later attempts live on.
Where ``FILL`` names a file, that is made as large as its disk at the point, instead.
Points of saving are seen by Python's audit events, which come before files are opened and renamed,
and by the calls of C functions that follow in the same thread.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import mimo_core as mimo

mimo_contract = "1.0"

TRACKER = "latest_checkpointed_iteration.txt"
OPENED = {
    "before a shard is opened": "*.distcp",
    "between the shards and .metadata": ".metadata.tmp",
    "between .metadata and the random states": ".random-*.new.json",
    "before the manifest's draft": ".mimo-*.new.json",
    "between the manifest's rename and the tracker's truncation": TRACKER,
}
"""Points before a file is opened for writing, by its name."""
WRITTEN: dict[str, tuple[str, Callable[[int], bool]]] = {
    "in the middle of a shard": ("*.distcp", lambda size: size > 0),
    "between the tracker's truncation and its writing": (TRACKER, lambda size: size == 0),
    "after the tracker": (TRACKER, lambda size: size > 0),
}
"""Points after that, by the file's bytes so far."""
RENAMED = {"between the manifest's draft and its rename": ".mimo-*.new.json"}
"""Points before a file is renamed."""

_due = os.environ["KILLS"].split(",")[len(json.loads(os.environ.get("MIMO_RESTARTS", "[]"))) :]
_rank, _, POINT = _due[0].partition(":") if _due else ("", "", "")
if os.environ.get("RANK") != _rank:
    POINT = ""
FILL = Path(os.environ["FILL"]) if "FILL" in os.environ else None


def strike(*_: object) -> None:
    """What the system does where memory is short; or what others on a disk do."""
    if FILL is None:
        os.kill(os.getpid(), signal.SIGKILL)
        return
    sys.setprofile(None)
    with suppress(OSError), FILL.open("xb", buffering=0) as file:
        for size in (1 << 20, 1 << 10, 1):
            with suppress(OSError):
                while file.write(b"0" * size):
                    pass


def strike_at(point: str) -> None:
    if point == POINT:
        strike()


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in ("open", "os.rename") or not isinstance(arguments[0], str | os.PathLike):
        return
    path = Path(arguments[0])
    if event == "os.rename":
        if POINT in RENAMED and fnmatch(path.name, RENAMED[POINT]):
            strike()
    elif arguments[2] & (os.O_WRONLY | os.O_RDWR):
        if POINT in OPENED and fnmatch(path.name, OPENED[POINT]):
            strike()
        if POINT in WRITTEN and fnmatch(path.name, WRITTEN[POINT][0]):
            sys.setprofile(_calls(path, WRITTEN[POINT][1]))


def _calls(path: Path, reached: Callable[[int], bool]) -> Callable[..., None]:
    opened = False

    def look(_frame: object, event: str, _call: object) -> None:
        nonlocal opened
        # The file is truncated when the call that opens it returns.
        if event == "c_return":
            opened = True
        if opened and event.startswith("c_") and path.exists() and reached(path.stat().st_size):
            strike()

    return look


strike_at("import")
if POINT:
    sys.addaudithook(_audit)


@mimo.hookimpl(wrapper=True)
def build_submodule(module: mimo.ModuleConfig, groups: Any, platform: mimo.Platform) -> Generator:
    from torch.nn.modules.module import register_module_forward_pre_hook
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    if POINT == "the first forward":
        register_module_forward_pre_hook(strike)
    if POINT == "an optimizer's step":
        register_optimizer_step_pre_hook(strike)
    return (yield)


@mimo.hookimpl(wrapper=True)
def provide_batch(module: mimo.ModuleConfig, samples: Any, context: mimo.BatchContext) -> Generator:
    if context.training:
        strike_at("a batch")
    else:
        strike_at("an evaluation")
    return (yield)
