"""What this machine can run: kinds of ranks, kernels, and the recipes of the package."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psutil

from mimo_core.doctor.findings import Finding
from mimo_core.doctor.machine import kernel
from mimo_core.errors import MimoError
from mimo_core.planning.memory_estimate import rank_memory
from mimo_core.planning.plan import make_plan
from mimo_core.platforms.kernels import KERNELS, REMEDY
from mimo_core.plugins import Host
from mimo_core.recipe import builtin

SECTION = "can run"


def ranks(torch: dict[str, Any] | str) -> Iterator[Finding]:
    """Ranks on CPUs and on GPUs, and the kernels of those."""
    if isinstance(torch, str):
        yield _found("ranks", "none: torch cannot be imported", "wrong")
        return
    if torch["gloo"]:
        yield _found("ranks on CPUs", "yes: gloo, local layers, pure-torch Mamba2 scan")
    else:
        yield _found("ranks on CPUs", "no: this torch was built without gloo", "wrong")
    gpus = len(torch["gpus"])
    if not gpus:
        yield _found("ranks on GPUs", "no: none here; recipes run on CPUs", "note")
        return
    if not torch["nccl"]:
        said = "no: this torch was built without NCCL"
        yield _found("ranks on GPUs", said, "wrong", "pip install a torch for CUDA")
        return
    yield _found("ranks on GPUs", f"yes: {gpus}, one a GPU, NCCL")
    for each in KERNELS:
        reasons = {name: kernel(name) for name, _ in each.packages}
        told = "; ".join(f"{name}: {why}" for name, why in reasons.items() if why is not None)
        yield _found(
            each.what,
            f"no ({told}): {each.instead}" if told else "yes",
            "note" if told else "good",
            REMEDY if told else "",
        )


def recipes(host: Host, torch: dict[str, Any] | str) -> Iterator[Finding]:
    """The recipes of the package, by what is installed here."""
    gpus = [] if isinstance(torch, str) else [size for _, size in torch["gpus"]]
    for name in builtin.names():
        what = f"recipe {name}"
        try:
            plan = make_plan(name, host=host)
        except MimoError as error:
            yield _found(what, f"no: {str(error).splitlines()[0]}", "note")
            continue
        held = rank_memory(plan.graph, plan.layout)
        size = plan.layout.world_size
        most = max(rank.total for rank in held)
        total = sum(rank.total * len(rank.ranks) for rank in held)
        told = f"{size} ranks, {_gigabytes(most)} on the fullest before activations"
        if gpus and size > len(gpus):
            why = f"{len(gpus)} GPUs here"
        elif gpus and most > min(gpus):
            why = f"{_gigabytes(min(gpus))} on a GPU here"
        elif not gpus and total > psutil.virtual_memory().total:
            why = f"{_gigabytes(total)} in all, {_gigabytes(psutil.virtual_memory().total)} here"
        else:
            yield _found(what, told)
            continue
        yield _found(what, f"no: {told}; {why}", "note")


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def _found(what: str, found: str, verdict: Any = "good", remedy: str = "") -> Finding:
    return Finding(section=SECTION, what=what, found=found, verdict=verdict, remedy=remedy)
