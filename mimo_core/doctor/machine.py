"""The machine: memory, disk, GPUs. torch is asked in a process of its own, which may die."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from mimo_core.doctor.findings import Finding

SECTION = "machine"
_PATIENCE = 180.0
_LEAST_SHARED = 1e9
_LEAST_DISK = 5e9
_LEAST_FILES = 1024
_ASK_TORCH = """
import json, torch, torch.distributed as dist
gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
print(json.dumps({
    "cuda": torch.version.cuda, "gloo": dist.is_gloo_available(), "nccl": dist.is_nccl_available(),
    "gpus": [[torch.cuda.get_device_name(i), torch.cuda.get_device_properties(i).total_memory]
             for i in range(gpus)],
}))
"""
_ASK_KERNEL = "import {0}"


def ask_torch() -> dict[str, Any] | str:
    """What torch says of this machine; a text where it cannot be imported."""
    said = _python(_ASK_TORCH)
    if said.returncode == 0:
        told: dict[str, Any] = json.loads(said.stdout.splitlines()[-1])
        return told
    return _last_line(said)


def kernel(package: str) -> str | None:
    """Why a package of kernels cannot be imported; ``None`` where it can."""
    said = _python(_ASK_KERNEL.format(package))
    return None if said.returncode == 0 else _last_line(said)


def machine(torch: dict[str, Any] | str) -> Iterator[Finding]:
    """Memory, disk, limits, GPUs."""
    memory = psutil.virtual_memory()
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    yield _found("processor cores", f"{cores}")
    yield _found(
        "memory", f"{memory.total / 1e9:.0f} GB, {memory.available / 1e9:.0f} GB available"
    )
    yield _room("disk here", Path.cwd(), _LEAST_DISK, "checkpoints need room; --run-dir elsewhere")
    if Path("/dev/shm").is_dir():
        yield _room(
            "shared memory",
            Path("/dev/shm"),
            _LEAST_SHARED,
            "data.num_workers and NCCL use it; in a container: --shm-size=16g",
        )
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = 0 <= files < _LEAST_FILES
    remedy = f"ulimit -n {min(4096, most) if most > 0 else 4096}" if few else ""
    yield _found("open files", f"{files}", "note" if few else "good", remedy)
    yield from _torch(torch)


def _torch(torch: dict[str, Any] | str) -> Iterator[Finding]:
    if isinstance(torch, str):
        remedy = "pip install --force-reinstall torch; see the message above"
        yield _found("torch here", f"cannot be imported: {torch}", "wrong", remedy)
        return
    names = [f"{name} {size / 1e9:.0f} GB" for name, size in torch["gpus"]]
    each = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    if not names and _has_driver():
        said = f"none usable, though a driver is there; torch is made for CUDA {torch['cuda']}"
        yield _found("GPUs", said, "wrong", "nvidia-smi; a torch for the driver's CUDA version")
        return
    yield _found("GPUs", each or "none")


def _has_driver() -> bool:
    return Path("/dev/nvidiactl").exists()


def _found(what: str, found: str, verdict: Any = "good", remedy: str = "") -> Finding:
    return Finding(section=SECTION, what=what, found=found, verdict=verdict, remedy=remedy)


def _room(what: str, place: Path, least: float, remedy: str) -> Finding:
    free = shutil.disk_usage(place).free
    little = free < least
    found = f"{free / 1e9:.1f} GB free ({place})"
    return _found(what, found, "note" if little else "good", remedy if little else "")


def _python(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    try:
        return subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        said = f"not done after {_PATIENCE:.0f} s"
        return subprocess.CompletedProcess(command, 1, "", said)


def _last_line(said: subprocess.CompletedProcess[str]) -> str:
    lines = said.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit code {said.returncode}, without a word"
