"""What differs between machines, and nothing else knows: one class a machine.

``select`` is called once in a rank process, before megatron is imported.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mimo_core.errors import MimoError

if TYPE_CHECKING:
    from mimo_core.platforms.base import RankPlatform

PLATFORM_VARIABLE = "MIMO_PLATFORM"
"""Environment variable that forces ``cpu`` or ``cuda``; by default a GPU is used if there is."""
_NAMES = ("cpu", "cuda")
_DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/dev/nvhost-ctrl", "/dev/nvmap")
"""Through which CUDA finds GPUs: of servers, under WSL, on Jetsons."""


def wanted() -> str | None:
    """The platform that ``MIMO_PLATFORM`` names, if any; without torch.

    Raises:
        MimoError: it names none of them.
    """
    said = os.environ.get(PLATFORM_VARIABLE) or None
    if said is not None and said not in _NAMES:
        raise MimoError(
            f"{PLATFORM_VARIABLE}={said}: expected {' or '.join(_NAMES)}; without it, a GPU is "
            "used where torch finds one"
        )
    return said


def without_gpu() -> bool:
    """Whether ranks here run on CPUs for certain; told without touching a GPU, as a process that
    did cannot fork children that use one."""
    said = wanted()
    return said == "cpu" or not (said or any(Path(device).exists() for device in _DEVICES))


def select(local_rank: int = 0) -> RankPlatform:
    """The platform of this rank process, made ready for megatron's import.

    Raises:
        ValueError: ``MIMO_PLATFORM`` names no platform, or one that this machine is not.
    """
    said = wanted()
    if said == "cpu":
        # Torch and the packages of kernels look for themselves; and a process that has seen a GPU
        # cannot fork children that see none.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    available = torch.cuda.is_available()
    if said == "cpu" or not (said or available):
        from mimo_core.platforms.cpu.platform import CpuPlatform

        return CpuPlatform()
    if not available:
        raise ValueError(f"{PLATFORM_VARIABLE}=cuda, but torch finds no GPU on this machine")
    from mimo_core.platforms.cuda import CudaPlatform

    te = importlib.util.find_spec("transformer_engine") is not None
    return CudaPlatform(local_rank, transformer_engine=te)


__all__ = ["PLATFORM_VARIABLE", "select", "wanted", "without_gpu"]
