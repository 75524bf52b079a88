"""What differs between machines, and nothing else knows: one class a machine.

``select`` is called once in a rank process, before megatron is imported.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mimo_core.errors import MimoError
from mimo_core.utils import environment

if TYPE_CHECKING:
    from mimo_core.platforms.base import RankPlatform

PLATFORM_VARIABLE = environment.PLATFORM
_SHOWN = "CUDA_VISIBLE_DEVICES"
_DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/dev/nvhost-ctrl", "/dev/nvmap")
"""Through which CUDA finds GPUs: of servers, under WSL, on Jetsons."""


def wanted() -> str | None:
    """The platform that ``MIMO_PLATFORM`` names, if any; without torch.

    Raises:
        MimoError: it names none of them.
    """
    return environment.platform(os.environ)


def check() -> None:
    """Whether ranks can be on this machine what its environment says. Told without torch; called
    before ranks start by what starts them, and by each rank that something else started.

    Raises:
        MimoError: a variable says what it cannot, or ``MIMO_PLATFORM`` a GPU where there is none.
    """
    environment.check(os.environ)
    why = no_gpu()
    if wanted() == "cuda" and why is not None:
        raise MimoError(
            f"{PLATFORM_VARIABLE}=cuda, but {why}; unset it, or run on a machine with a GPU",
            code="platform.no-gpu",
        )


def no_gpu() -> str | None:
    """Why torch can find no GPU here; ``None`` where it may. Told without touching one, as a
    process that did cannot fork children that use one."""
    shown = os.environ.get(_SHOWN)
    if shown is not None and shown.partition(",")[0].strip() in ("", "-1"):
        return f"{_SHOWN}={shown} hides all GPUs of this machine"
    if not any(Path(device).exists() for device in _DEVICES):
        return "this machine has no GPU (no NVIDIA driver is loaded: there is no /dev/nvidiactl)"
    return None


def without_gpu() -> bool:
    """Whether ranks here run on CPUs for certain."""
    said = wanted()
    return said == "cpu" or (said is None and no_gpu() is not None)


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
        raise MimoError(
            f"{PLATFORM_VARIABLE}=cuda, but torch finds no GPU on this machine",
            code="platform.no-gpu",
        )
    from mimo_core.platforms.cuda import CudaPlatform

    te = importlib.util.find_spec("transformer_engine") is not None
    return CudaPlatform(local_rank, transformer_engine=te)


__all__ = ["PLATFORM_VARIABLE", "check", "no_gpu", "select", "wanted", "without_gpu"]
