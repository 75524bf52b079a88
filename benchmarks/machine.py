"""What results were measured on."""

from __future__ import annotations

import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "megatron-core", "transformer-engine", "mamba-ssm", "causal-conv1d", "triton")


def gpus() -> list[str]:
    """Name and driver of each GPU, in nvidia-smi's words."""
    if shutil.which("nvidia-smi") is None:
        return []
    asked = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    done = subprocess.run(
        asked, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def machine() -> dict[str, Any]:
    """GPUs, processor, versions, and the commit of this checkout."""
    return {
        "gpus": gpus(),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    asked = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            asked, cwd=here, capture_output=True, encoding="utf-8", errors="replace", check=False
        )
    except OSError:
        return None
    return done.stdout.strip() or None
