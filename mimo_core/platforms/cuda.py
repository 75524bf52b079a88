"""A machine with NVIDIA GPUs: NCCL, and one process a GPU."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch

from mimo_core.contract import Precision
from mimo_core.errors import MimoError
from mimo_core.platforms import kernels
from mimo_core.platforms.cuda_graph import Capturing, DeviceGraph
from mimo_core.platforms.mamba_ssm import import_kernels
from mimo_core.platforms.peak_flops import peak_flops
from mimo_core.platforms.timers import DeviceStopwatch
from mimo_core.platforms.triton.autotuner import TritonTuning, keep_cache, threads
from mimo_core.utils.environment import EAGER, SHARE, switched_on


class CudaPlatform:
    """One process a GPU, or several where they may share it.

    NCCL refuses two ranks on one GPU of one host (``Duplicate GPU detected``, 2.28), so ranks that
    share are hosts of their own to it and their messages go through sockets.

    Args:
        local_rank: Of this machine's ranks.
        transformer_engine: Whether it is installed.

    Raises:
        ValueError: there is no GPU for this rank.
    """

    name: Literal["cpu", "cuda"] = "cuda"
    backend: Literal["gloo", "nccl"] = "nccl"

    def __init__(self, local_rank: int, *, transformer_engine: bool) -> None:
        count = torch.cuda.device_count()
        self._shares = switched_on(SHARE, os.environ)
        if self._shares:
            os.environ["NCCL_HOSTID"] = f"{socket.gethostname()}-{local_rank}"
        elif local_rank >= count:
            raise MimoError(
                f"local rank {local_rank} has no GPU: this machine has {count}; start at most "
                f"{count} ranks on it, set {SHARE}=1 to try it with several on a GPU, or "
                "MIMO_PLATFORM=cpu",
                code="platform.too-few-gpus",
                local_rank=local_rank,
                gpus=count,
            )
        device = local_rank % count
        torch.cuda.set_device(device)
        # What Triton finds by trying (120 configurations of the Mamba kernels) is kept on disk
        # beside its compiled kernels.
        os.environ.setdefault("TRITON_CACHE_AUTOTUNING", "1")
        keep_cache()
        self._tuning = TritonTuning(
            threads(os.environ, None if self._shares else count),
            torch.cuda.is_current_stream_capturing,
        )
        self._tuning.install()
        import_kernels()
        self.transformer_engine = transformer_engine
        self._device = torch.device("cuda", device)
        self._stream = torch.cuda.Stream()
        self._capturing = Capturing()

    @property
    def device(self) -> torch.device:
        return self._device

    def transfer(self) -> AbstractContextManager[Any]:
        self._stream.wait_stream(torch.cuda.current_stream())
        return torch.cuda.stream(self._stream)

    def received(self, tensors: list[torch.Tensor]) -> None:
        current = torch.cuda.current_stream()
        current.wait_stream(self._stream)
        for tensor in tensors:
            tensor.record_stream(current)

    @property
    def eager_device(self) -> torch.device | None:
        return self._device if switched_on(EAGER, os.environ) else None

    def notes(self) -> Sequence[str]:
        shared = (
            f"{SHARE}: ranks share GPUs and send through sockets, to try a layout; its "
            "speed says nothing"
        )
        return (*kernels.notes(), *([shared] if self._shares else ()))

    def tuned(self) -> str | None:
        return self._tuning.told()

    def capture(
        self, function: Callable[[], torch.Tensor], generators: Iterable[torch.Generator]
    ) -> DeviceGraph:
        return self._capturing.capture(function, generators)

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def random_state(self) -> torch.Tensor:
        return torch.cuda.get_rng_state(self._device)

    def set_random_state(self, state: torch.Tensor) -> None:
        torch.cuda.set_rng_state(state, self._device)

    def peak_flops(self, precision: Precision) -> float | None:
        if self._shares:
            return None
        return peak_flops(torch.cuda.get_device_name(self._device), precision)

    def peak_memory(self) -> int:
        return torch.cuda.max_memory_allocated()

    def stopwatch(self) -> DeviceStopwatch:
        return DeviceStopwatch()
