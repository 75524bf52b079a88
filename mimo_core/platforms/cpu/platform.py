"""A machine without a GPU: megatron's own loop over gloo."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NoReturn

import torch

from mimo_core.contract import Precision
from mimo_core.platforms.cpu import import_hook
from mimo_core.platforms.peak_flops import peak_flops
from mimo_core.platforms.timers import HostStopwatch
from mimo_core.utils import environment


class CpuPlatform:
    """One process a rank on CPU threads; installs megatron's view of torch."""

    name: Literal["cpu", "cuda"] = "cpu"
    backend: Literal["gloo", "nccl"] = "gloo"
    transformer_engine = False
    eager_device = None

    def __init__(self) -> None:
        torch.set_num_threads(environment.threads(os.environ))
        import_hook.install()
        # The tracker compares the host's and the device's generator, which are one here.
        logging.getLogger("megatron.core.tensor_parallel.random").addFilter(_other_than_rng_drift)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def transfer(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def received(self, tensors: list[torch.Tensor]) -> None: ...

    def notes(self) -> Sequence[str]:
        return ()

    def tuned(self) -> str | None:
        return None

    def capture(self, *_: Any) -> NoReturn:
        raise AssertionError("fields that ask for graphs are not read on CPUs")

    def synchronize(self) -> None: ...

    def random_state(self) -> torch.Tensor:
        return torch.get_rng_state()

    def set_random_state(self, state: torch.Tensor) -> None:
        torch.set_rng_state(state)

    def peak_flops(self, precision: Precision) -> float | None:
        return peak_flops(None, precision)

    def peak_memory(self) -> int:
        return 0

    def stopwatch(self) -> HostStopwatch:
        return HostStopwatch()


def _other_than_rng_drift(record: logging.LogRecord) -> bool:
    return "CPU RNG state changed" not in record.getMessage()
