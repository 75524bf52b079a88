"""Records what a rank asks of torch.distributed, in the order in which its host asks.

Imports nothing of this repository: ``plugins/uneven_plugin.py`` brings it along to ranks of whole
runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

MESSAGES = {"send": "send", "recv_": "receive"}


class Recorder(TorchDispatchMode):
    """Takes down every operation of process groups, as c10d dispatches it, a line each.

    A line is ``[name, group, world ranks of the group, what]``: of a collective ``what`` is null,
    of messages ``[[direction, world rank of the peer, elements], …]``, those of one batch together.
    """

    def __init__(self, file: TextIO) -> None:
        super().__init__()
        self._file = file
        self._batch: list[Any] | None = None
        self._group: tuple[str, list[int]] = ("", [])

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function.namespace == "c10d":
            self._take(function.overloadpacket.__name__, args)
        return function(*args, **(kwargs or {}))

    def _take(self, name: str, args: tuple[Any, ...]) -> None:
        group = next(_groups(args))
        ranks = dist.get_process_group_ranks(group)
        self._group = (group.group_name, ranks)
        if name not in MESSAGES:
            self._write(name, None)
            return
        message = [MESSAGES[name], ranks[args[2]], args[0][0].numel()]
        if self._batch is None:
            self._write("message", [message])
        else:
            self._batch.append(message)

    def _write(self, name: str, what: list[Any] | None) -> None:
        self._file.write(json.dumps([name, *self._group, what]) + "\n")
        # A rank may end at any moment.
        self._file.flush()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Messages inside are one operation."""
        self._batch = []
        try:
            yield
        finally:
            if self._batch:
                self._write("batch", self._batch)
            self._batch = None


def _groups(args: tuple[Any, ...]) -> Iterator[Any]:
    for arg in args:
        if isinstance(arg, torch.ScriptObject):
            try:
                yield dist.ProcessGroup.unbox(arg)
            except RuntimeError:  # A ReduceOp, boxed as well.
                continue


@contextmanager
def recorded(path: Path) -> Iterator[None]:
    """Record what this thread does inside."""
    stock = dist.batch_isend_irecv
    with path.open("w") as file, Recorder(file) as recorder:

        def batch_isend_irecv(operations: list[Any]) -> list[Any]:
            with recorder.batch():
                return stock(operations)

        dist.batch_isend_irecv = batch_isend_irecv
        try:
            yield
        finally:
            dist.batch_isend_irecv = stock
