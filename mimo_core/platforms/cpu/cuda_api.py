"""The CUDA API as Megatron calls it, answered by the CPU.

Every name here is one that megatron-core 0.19 calls on the way of a training run. A stream is
the program order, an event a time stamp, the device generator a generator state of its own, so
that "the device's random state" and "the host's" stay two things, as Megatron expects.
"""

from __future__ import annotations

import contextlib
import time
import types
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

CPU = torch.device("cpu")

TENSOR_TYPE_NAMES = {
    torch.float32: "torch.cuda.FloatTensor",
    torch.float16: "torch.cuda.HalfTensor",
    torch.bfloat16: "torch.cuda.BFloat16Tensor",
}
"""What ``tensor.type()`` says on a GPU; the optimizers sort parameters by it."""


def is_cuda_device(device: Any) -> bool:
    """True for ``"cuda"``, ``"cuda:0"`` and ``torch.device("cuda", 0)``."""
    if isinstance(device, torch.device):
        return device.type == "cuda"
    return isinstance(device, str) and device.startswith("cuda")


class Event:
    """A time stamp."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        self.stamp = time.perf_counter()

    def record(self, stream: Any = None) -> None:
        self.stamp = time.perf_counter()

    def wait(self, stream: Any = None) -> None: ...

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds from this event to ``end``."""
        return (end.stamp - self.stamp) * 1e3


class Stream:
    """Program order: work is done when the call returns."""

    device = CPU
    cuda_stream = 0

    def __init__(self, *_args: Any, **_kwargs: Any) -> None: ...

    @staticmethod
    def priority_range() -> tuple[int, int]:
        return (0, 0)

    def wait_stream(self, stream: Any) -> None: ...

    def wait_event(self, _event: Any) -> None: ...

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True

    def record_event(self, event: Event | None = None) -> Event:
        return event or Event()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_exc: Any) -> None: ...


class DeviceApi(types.ModuleType):
    """``torch.cuda`` as Megatron's modules see it; what is not named here is torch's own."""

    Event = Event
    Stream = Stream
    FloatTensor = torch.FloatTensor
    HalfTensor = torch.HalfTensor
    BFloat16Tensor = torch.BFloat16Tensor
    IntTensor = torch.IntTensor
    LongTensor = torch.LongTensor
    ByteTensor = torch.ByteTensor

    def __init__(self) -> None:
        super().__init__("torch.cuda", "The CUDA API on a CPU.")
        self._stream = Stream()
        self.random = self
        # Indexed by what current_device() gives, and by device number.
        self.default_generators = {CPU: torch.default_generator, 0: torch.default_generator}
        self.nvtx = types.SimpleNamespace(
            range_push=_nothing, range_pop=_nothing, range=contextlib.nullcontext
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cuda, name)

    # Device
    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> torch.device:
        return CPU

    def set_device(self, device: Any) -> None: ...

    def synchronize(self, device: Any = None) -> None: ...

    def get_device_capability(self, device: Any = None) -> tuple[int, int]:
        return (0, 0)

    def get_device_properties(self, device: Any = None) -> types.SimpleNamespace:
        return types.SimpleNamespace(name="cpu", total_memory=0, major=0, minor=0)

    def device(self, device: Any = None) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    # Torch queues these calls until the driver is up; the tracker sets its random states by them.
    def _lazy_call(self, call: Callable[[], Any], **_kwargs: Any) -> None:
        call()

    def _lazy_init(self) -> None: ...

    # Streams
    def current_stream(self, device: Any = None) -> Stream:
        return self._stream

    def default_stream(self, device: Any = None) -> Stream:
        return self._stream

    def set_stream(self, stream: Any) -> None: ...

    def stream(self, stream: Any) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def is_current_stream_capturing(self) -> bool:
        return False

    # Random state. On a CPU one generator serves every operation; "the device's" is that one.
    def manual_seed(self, seed: int) -> None:
        torch.default_generator.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.default_generator.manual_seed(seed)

    def initial_seed(self) -> int:
        return int(torch.default_generator.initial_seed())

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    # Memory
    def empty_cache(self) -> None: ...

    def memory_allocated(self, device: Any = None) -> int:
        return 0

    max_memory_allocated = memory_reserved = max_memory_reserved = memory_allocated
    device_memory_used = memory_allocated

    def memory_stats(self, device: Any = None) -> dict[str, int]:
        return defaultdict(int)

    def reset_peak_memory_stats(self, device: Any = None) -> None: ...

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        return (0, 0)


def _nothing(*_args: Any, **_kwargs: Any) -> None: ...


def on_cpu(factory: Callable[..., Any]) -> Callable[..., Any]:
    """``factory`` with ``device="cuda"`` answered by the CPU and pinned memory by plain memory."""

    def create(*args: Any, **kwargs: Any) -> Any:
        if is_cuda_device(kwargs.get("device")):
            kwargs["device"] = CPU
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        return factory(*args, **kwargs)

    create.__name__ = getattr(factory, "__name__", "create")
    return create
