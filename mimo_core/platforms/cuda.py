"""A machine with NVIDIA GPUs: NCCL, and one process a GPU."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch

from mimo_core.contract import Precision
from mimo_core.environment import switched_on
from mimo_core.platforms import kernels
from mimo_core.platforms.peak import peak_flops
from mimo_core.platforms.stopwatches import DeviceStopwatch
from mimo_core.platforms.triton_tuning import TritonTuning, threads

EAGER_VARIABLE = "MIMO_EAGER_COMMUNICATORS"
"""Environment variable: NCCL makes its communicators at the start instead of at first use."""


class CudaPlatform:
    """One process a GPU."""

    name: Literal["cpu", "cuda"] = "cuda"
    backend: Literal["gloo", "nccl"] = "nccl"

    def __init__(self, local_rank: int, *, transformer_engine: bool) -> None:
        count = torch.cuda.device_count()
        if local_rank >= count:
            raise ValueError(
                f"local rank {local_rank} has no GPU: this machine has {count}; start at most "
                f"{count} ranks on it, or set MIMO_PLATFORM=cpu"
            )
        torch.cuda.set_device(local_rank)
        # What Triton finds by trying (120 configurations of the Mamba kernels) is kept on disk
        # beside its compiled kernels.
        os.environ.setdefault("TRITON_CACHE_AUTOTUNING", "1")
        self._tuning = TritonTuning(threads(os.environ, count))
        self._tuning.install()
        self.transformer_engine = transformer_engine
        self._device = torch.device("cuda", local_rank)
        self._stream = torch.cuda.Stream()

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
        return self._device if switched_on(EAGER_VARIABLE, os.environ) else None

    def notes(self) -> Sequence[str]:
        return tuple(kernels.notes())

    def tuned(self) -> str | None:
        return self._tuning.told()

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def random_state(self) -> torch.Tensor:
        return torch.cuda.get_rng_state(self._device)

    def set_random_state(self, state: torch.Tensor) -> None:
        torch.cuda.set_rng_state(state, self._device)

    def peak_flops(self, precision: Precision) -> float | None:
        return peak_flops(torch.cuda.get_device_name(self._device), precision)

    def peak_memory(self) -> int:
        return torch.cuda.max_memory_allocated()

    def stopwatch(self) -> DeviceStopwatch:
        return DeviceStopwatch()
