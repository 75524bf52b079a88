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
        # Those whose capture failed too: torch's allocator may still ask them whether it goes on.
        self._graphs: list[torch.cuda.CUDAGraph] = []

    def capture(
        self, function: Callable[[], torch.Tensor], generators: Iterable[torch.Generator]
    ) -> DeviceGraph:
        """See :meth:`~mimo_core.platforms.base.RankPlatform.capture`."""
        if self._pool is None or self._stream is None:
            self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
        graph = torch.cuda.CUDAGraph()
        self._graphs.append(graph)
        for generator in generators:
            graph.register_generator_state(generator)
        cause: Exception | None = None
        # torch before 2.15 may leave the capture's stream the current one where it fails.
        with torch.cuda.stream(self._stream):
            try:
                # Threads that load batches pin memory meanwhile, and NCCL's looks at events.
                with torch.cuda.graph(
                    graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
                ):
                    try:
                        output = function()
                    except Exception as error:
                        cause = error
                        raise
            except Exception:
                # What torch says of the capture's end hides why it had to end.
                if cause is not None:
                    raise cause from None
                raise
        return DeviceGraph(output, graph)


__all__ = ["Capturing", "DeviceGraph"]
