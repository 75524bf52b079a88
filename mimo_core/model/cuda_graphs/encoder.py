"""CUDA graphs of a whole tower that does not learn (``cuda_graph_impl: local`` of an encoder).

Its forward is the same work in every step, and where the host's Python is slower than the GPU, what
the GPU does is all that is needed of it. A batch's shape that comes again and again is captured:
whatever the tower is, if it neither waits for the device nor copies from the host's memory then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import attrs
import torch

from mimo_core.contract import ModuleConfig
from mimo_core.errors import MimoError
from mimo_core.model.platform_config import drop_unsupported_fields
from mimo_core.platforms.base import Captured, RankPlatform

FIELD = "cuda_graph_impl"
OFTEN = 3
"""The coming of a shape at which it is captured: kernels have been compiled and tuned by then."""
MOST = 16
"""Shapes that get a graph. Each keeps its inputs and its output; all else they share."""
REMEMBERED = 4096
"""Shapes whose comings are counted: pictures of all sizes make new ones without end."""
_PLAIN = (bool, int, float, str, bytes, type(None), torch.dtype, torch.device)


def asked_for(module: ModuleConfig, platform: RankPlatform) -> bool:
    """Whether the module is an encoder whose tower is to be captured on this machine."""
    read = drop_unsupported_fields(module, platform).megatron
    return not module.is_language and read.get(FIELD, "none") != "none"


@attrs.frozen(kw_only=True)
class _Graph:
    inputs: dict[str, torch.Tensor]
    """Its own, which it reads."""
    captured: Captured

    def __call__(self, batch: Mapping[str, Any]) -> torch.Tensor:
        for name, tensor in self.inputs.items():
            tensor.copy_(batch[name], non_blocking=True)
        self.captured.replay()
        # Rows of several microbatches are on their way at once, and the next replay writes here.
        return self.captured.output.clone()


class TowerGraphs:
    """Stands before a fixed tower's forward, and replays what it did for batches of this shape."""

    def __init__(
        self,
        forward: Callable[..., torch.Tensor],
        *,
        capture: Callable[[Callable[[], torch.Tensor]], Captured],
        device: torch.device,
        module: str,
        tower: object,
    ) -> None:
        """
        Args:
            forward: Takes the batch's entries by name; gives features ``[N, width]``.
            capture: The platform's.
            device: This rank's. A batch with a tensor elsewhere is computed as ever.
            module: Name of the encoder.
            tower: What ``forward`` calls. If it has a method ``settled``, no batch is captured for
                which that says false.
        """
        self._forward = forward
        self._capture = capture
        self._device = device
        self._module = module
        self._tower = tower
        self._times: dict[Hashable, int] = {}
        self._graphs: dict[Hashable, _Graph] = {}

    def __len__(self) -> int:
        """Graphs so far."""
        return len(self._graphs)

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Features ``[N, width]`` of a batch, a tensor of their own.

        Raises:
            MimoError: the tower cannot be captured.
        """
        key = self._key(batch)
        if key is None:
            return self._forward(**batch)
        if key not in self._graphs:
            if not self._comes_often(key, batch):
                return self._forward(**batch)
            self._graphs[key] = self._graph(batch)
        return self._graphs[key](batch)

    def _key(self, batch: Mapping[str, Any]) -> Hashable | None:
        """What a graph of this batch stands on; ``None`` where there can be none."""
        tensors, others = [], []
        for name, value in batch.items():
            if isinstance(value, torch.Tensor):
                if value.device != self._device:
                    return None
                tensors.append((name, tuple(value.shape), value.dtype))
            else:
                others.append((name, value))
        try:
            return frozenset(tensors), frozenset((name, _plain(value)) for name, value in others)
        except TypeError:
            return None

    def _comes_often(self, key: Hashable, batch: Mapping[str, Any]) -> bool:
        if len(self._graphs) == MOST:
            return False
        if key not in self._times and len(self._times) == REMEMBERED:
            del self._times[next(iter(self._times))]
        self._times[key] = self._times.get(key, 0) + 1
        settled = getattr(self._tower, "settled", None)
        return self._times[key] >= OFTEN and (settled is None or settled(**batch))

    def _graph(self, batch: Mapping[str, Any]) -> _Graph:
        started = time.perf_counter()
        own = {
            name: torch.empty_like(value)
            for name, value in batch.items()
            if isinstance(value, torch.Tensor)
        }
        given = {**batch, **own}
        try:
            captured = self._capture(lambda: self._forward(**given))
        except Exception as error:
            raise MimoError(
                f"modules.{self._module}.megatron.{FIELD}: the forward of "
                f"{type(self._tower).__module__}.{type(self._tower).__name__} cannot be captured "
                f"as a CUDA graph: {_first_line(error)}. A tower that waits for the device or "
                f"copies from the host's memory cannot be; leave {FIELD} out for this module",
                code="megatron.cuda-graphs",
                module=self._module,
                tower=type(self._tower).__name__,
                cause=_first_line(error),
            ) from error
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in own.items())
        print(
            f"{self._module}: captured its tower as CUDA graph {len(self) + 1} of at most {MOST} "
            f"({shapes}) in {time.perf_counter() - started:.2f} s",
            flush=True,
        )
        return _Graph(inputs=own, captured=captured)


def _plain(value: object) -> Hashable:
    """A value that says all that it is; 1, 1.0 and True are three.

    Raises:
        TypeError: it may change, or is known by its place in memory alone.
    """
    if isinstance(value, (tuple, list)):
        return tuple(_plain(each) for each in value)
    if type(value) not in _PLAIN:
        raise TypeError(type(value))
    return type(value), value


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


__all__ = ["FIELD", "MOST", "OFTEN", "TowerGraphs", "asked_for"]
