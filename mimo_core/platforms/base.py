"""What the engine asks of a machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

import torch

from mimo_core.contract import Precision


class Stopwatch(Protocol):
    """Tells when the work that was given to a rank's device so far is done."""

    on_host: bool
    """Its marks are times of the host: there is no device beside it."""
    error: float
    """Seconds by which its times may differ from the host's, known after :meth:`seconds`."""

    def start(self) -> None:
        """Relate the device's clock to the host's. Waits until the device is idle."""

    def mark(self) -> Any:
        """The end of all that the current stream of :meth:`start` was given so far."""

    def seconds(self, marks: Sequence[Any]) -> list[float]:
        """Times of marks in seconds of ``time.perf_counter``; waits for the device."""


class Captured(Protocol):
    """What a function did on the device, kept to be done again without the host's Python."""

    output: torch.Tensor
    """What the function gave; every replay writes it anew, and the first has yet to come."""

    def replay(self) -> None:
        """Do it again on the current stream: with what is in the tensors that it read now."""


class RankPlatform(Protocol):
    """One rank's machine. The plugin-facing part is ``mimo_core.Platform``."""

    name: Literal["cpu", "cuda"]
    backend: Literal["gloo", "nccl"]
    """torch.distributed backend of every group."""
    transformer_engine: bool

    @property
    def device(self) -> torch.device: ...

    def transfer(self) -> AbstractContextManager[Any]:
        """Run communication of the communicator on a stream of its own, after what the current
        stream has queued."""

    def received(self, tensors: list[torch.Tensor]) -> None:
        """The current stream waits for the transfers so far and owns ``tensors`` from here on."""

    @property
    def eager_device(self) -> torch.device | None:
        """The device for which process groups make their communicators at once; ``None`` where
        each is made when it is first used."""

    def notes(self) -> Sequence[str]:
        """What a person should know of it before a run, a line each."""

    def tuned(self) -> str | None:
        """Which kernels were tuned since this was last asked, and for how long: a line for the
        rank's log."""

    def capture(
        self, function: Callable[[], torch.Tensor], generators: Iterable[torch.Generator]
    ) -> Captured:
        """Run the function once, which computes nothing, and keep what it would do on the device.
        All that is kept shares memory: one is replayed after another. On GPUs alone.

        Args:
            function: Was called before, so that its kernels are ready; it neither waits for the
                device nor copies from the host's memory.
            generators: Of the device, from which it may draw.

        Raises:
            Exception: what the function raised, or torch of it, where it cannot be kept.
        """

    def synchronize(self) -> None:
        """Wait for the device."""

    def random_state(self) -> torch.Tensor:
        """State of the device's default generator, bytes on the CPU."""

    def set_random_state(self, state: torch.Tensor) -> None: ...

    def peak_flops(self, precision: Precision) -> float | None:
        """FLOP/s of this rank at most in a precision; ``None`` where it is not known."""

    def peak_memory(self) -> int:
        """Bytes of device memory allocated at most so far (0 on a CPU)."""

    def stopwatch(self) -> Stopwatch:
        """A new one."""
