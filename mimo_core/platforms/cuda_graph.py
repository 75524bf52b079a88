"""CUDA graphs: what a function did on a GPU, launched as one from then on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs
import torch


@attrs.frozen(eq=False)
class DeviceGraph:
    """See :class:`~mimo_core.platforms.base.Captured`."""

    output: torch.Tensor
    _graph: torch.cuda.CUDAGraph

    def replay(self) -> None:
        self._graph.replay()


class Capturing:
    """The graphs of this process, which share one pool of memory. A pool's blocks are of one
    stream, so all are captured on the same."""

    def __init__(self) -> None:
        self._pool: Any = None
        self._stream: torch.cuda.Stream | None = None

    def capture(
        self, function: Callable[[], torch.Tensor], generators: Iterable[torch.Generator]
    ) -> DeviceGraph:
        """See :meth:`~mimo_core.platforms.base.RankPlatform.capture`."""
        if self._stream is None:
            self._stream = torch.cuda.Stream()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        generators = list(generators)
        cause: Exception | None = None

        def guarded() -> torch.Tensor:
            nonlocal cause
            try:
                return function()
            except Exception as error:
                cause = error
                raise

        # torch before 2.15 may leave the capture's stream the current one where it fails.
        with torch.cuda.stream(self._stream):
            try:
                return self._record(guarded, generators)
            except Exception:
                self._recover(generators)
                # What torch says of the capture's end hides why it had to end.
                if cause is not None:
                    raise cause from None
                raise

    def _record(
        self, function: Callable[[], torch.Tensor], generators: Iterable[torch.Generator]
    ) -> DeviceGraph:
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        # Threads that load batches pin memory meanwhile, and NCCL's looks at events.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            output = function()
        return DeviceGraph(output, graph)

    def _recover(self, generators: Iterable[torch.Generator]) -> None:
        """Finish what torch leaves open when a capture fails.

        torch 2.11 (``CUDAGraph::capture_end``) raises before it closes the pool and the generators:

        - the allocator records into the pool: it refuses every later capture there, and frees no
          block that was used on several streams. Graphs captured before keep the pool; later ones
          get a new one;
        - the generators raise at every draw outside a graph ("Offset increment outside graph
          capture"). A capture that succeeds closes them.
        """
        pool, self._pool = self._pool, None
        device = torch.cuda.current_device()
        try:
            torch._C._cuda_endAllocateToPool(device, pool)  # type: ignore[attr-defined]
        except RuntimeError:  # torch has closed it
            return
        torch._C._cuda_releasePool(device, pool)  # type: ignore[attr-defined]
        scratch = torch.empty(1, device="cuda")
        self._record(scratch.zero_, generators)


__all__ = ["Capturing", "DeviceGraph"]
