"""One rank's line to all others: the first failure of any rank ends every rank, on every node."""

from __future__ import annotations

import datetime
import json
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import torch.distributed as dist
from torch.distributed import rendezvous

from mimo_core.launch.failure import Failure
from mimo_core.launch.hub import Hub, close_in_child, watched
from mimo_core.rank import Rank
from mimo_core.run_folder import RunFolder

_PATIENCE = 3.0
"""Seconds that a rank which fails waits for what was first, and rank 0 for the others to hear."""


class Watch:
    """Made by :meth:`join`; a thread listens until :meth:`leave`.

    The thread ends the process where another rank has failed, also while the main thread is in a
    collective that will never return.
    """

    def __init__(
        self,
        rank: Rank,
        folder: RunFolder,
        store: dist.Store,
        hub: Hub | None,
        told: Callable[[Failure], None],
    ) -> None:
        self.store = store
        """The store that the ranks met at."""
        self.folder = folder
        """The run's folder, as rank 0 has it."""
        self._rank = rank
        self._hub = hub
        self._told = told
        self._connection: socket.socket
        self._received = b""
        self._first: Failure | None = None
        self._heard = threading.Event()
        self._label: Callable[[int], str] = "rank {}".format
        self._left = False
        self._ending = threading.Lock()

    @classmethod
    def join(
        cls,
        rank: Rank,
        folder: RunFolder,
        timeout: datetime.timedelta,
        told: Callable[[Failure], None],
    ) -> Watch:
        """Meet all other ranks. Called by all ranks, before anything that can fail on one alone.

        Args:
            rank: This rank.
            folder: The run's folder; rank 0's counts.
            timeout: For all ranks to appear.
            told: Called with the run's first failure before this process ends by it.

        Raises:
            ValueError: rank 0 cannot be reached.
        """
        store, _, _ = next(iter(rendezvous("env://", rank.rank, rank.world_size, timeout=timeout)))
        store.set_timeout(timeout)
        address, seconds = os.environ["MASTER_ADDR"], timeout.total_seconds()
        hub = None
        if rank.rank == 0:
            hub = Hub(address=address, world_size=rank.world_size, folder=folder, timeout=seconds)
            store.set("mimo/hub", str(hub.port))
        watch = cls(rank, folder, store, hub, told)
        port = int(store.get("mimo/hub"))
        try:
            watch._connection = watched(socket.create_connection((address, port), seconds))
        except OSError as error:
            raise ValueError(
                f"rank {rank.rank} cannot reach rank 0 at {address}:{port}: {error}; rank 0 may "
                "have failed (see its screen), or ports are closed between the machines"
            ) from error
        watch._connection.settimeout(None)
        os.register_at_fork(after_in_child=lambda: close_in_child(watch._connection))
        watch._send({"join": rank.rank, "screen": rank.screen})
        welcome = watch._receive()
        if "folder" not in welcome:
            watch._end(watch._failure(welcome))
        watch.folder = RunFolder(Path(welcome["folder"]))
        threading.Thread(target=watch._listen, name="mimo watch", daemon=True).start()
        return watch

    def name_ranks(self, label: Callable[[int], str]) -> None:
        """From here on messages name ranks by ``label``."""
        self._label = label
        self._send({"label": label(self._rank.rank)})

    def fail(self, failure: Failure) -> None:
        """This rank has failed: end all ranks, and this process with exit code 1."""
        self._ending.acquire()
        self._send({"failure": attrs.asdict(failure)})
        self._heard.wait(_PATIENCE)
        self._end(self._first or failure)

    def stop(self, stop: Failure) -> None:
        """End all ranks by what is no failure (``stop.code`` is 0), unless one came first."""
        self._send({"failure": attrs.asdict(stop)})

    def leave(self) -> None:
        """This rank is done. Rank 0 waits for the others, as they could still fail."""
        if self._hub is not None:
            self._hub.wait_for_others()
        self._left = True
        self._send({"done": True})
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)

    def _listen(self) -> None:
        said = self._receive()
        if self._left:
            return
        self._first = self._failure(said)
        self._heard.set()
        if self._ending.acquire(blocking=False):
            self._end(self._first)

    def _end(self, failure: Failure) -> None:
        try:
            self._told(failure)
            if self._hub is not None:
                self._hub.wait_for_others(_PATIENCE)
        finally:
            os._exit(failure.code)

    def _failure(self, said: dict[str, Any]) -> Failure:
        if "failure" in said:
            return Failure(**said["failure"])
        return Failure(
            rank=0,
            label=self._label(0),
            message="ended without a word, or its machine cannot be reached any more",
            log=str(self.folder.log(0)),
            silent=True,
        )

    def _send(self, message: dict[str, Any]) -> None:
        with suppress(OSError):
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def _receive(self) -> dict[str, Any]:
        """The next message; an empty one where the connection ended."""
        while b"\n" not in self._received:
            try:
                more = self._connection.recv(65536)
            except OSError:
                more = b""
            if not more:
                return {}
            self._received += more
        line, _, self._received = self._received.partition(b"\n")
        return dict(json.loads(line))
