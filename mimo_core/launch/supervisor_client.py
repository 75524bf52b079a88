"""One rank's line to all others: the first failure of any rank ends every rank, on every node."""

from __future__ import annotations

import datetime
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import torch.distributed as dist

from mimo_core.errors import MimoError
from mimo_core.launch.failure import Failure
from mimo_core.launch.heartbeat import Heart, Limits
from mimo_core.launch.protocol import (
    LONGEST_LINE,
    Lines,
    Malformed,
    decode,
    encode,
    new_token,
    take_token,
)
from mimo_core.launch.rank_env import Rank
from mimo_core.launch.store import (
    Place,
    find_hub,
    hub_address,
    is_the_agents,
    open_store,
    publish_hub,
)
from mimo_core.launch.supervisor import Supervisor, close_in_child, watched
from mimo_core.reporting.run_directory import RunDirectory
from mimo_core.utils.terminal_text import printable

_PATIENCE = 3.0
"""Seconds that a rank which fails waits for what was first, and rank 0 for the others to hear."""
_AGAIN_SECONDS = 0.2
"""Pause before a rank whose connection was closed connects again."""
_AGAIN_TIMEOUT = 10.0
"""Seconds to connect again; a machine that is lost does not answer."""


class SupervisorClient:
    """Made by :meth:`join`; a thread listens until :meth:`leave`.

    The thread ends the process where another rank has failed, also while the main thread is in a
    collective that will never return.
    """

    def __init__(
        self,
        rank: Rank,
        folder: RunDirectory,
        store: dist.Store,
        hub: Supervisor | None,
        told: Callable[[Failure], None],
    ) -> None:
        self.store = store
        """The store that the ranks met at."""
        self.folder = folder
        """The run's folder, as rank 0 has it."""
        self._rank = rank
        self._hub = hub
        self._told = told
        self._connection = socket.socket()
        self._received = Lines(LONGEST_LINE)
        self._first: Failure | None = None
        self._heard = threading.Event()
        self._label: Callable[[int], str] = "rank {}".format
        self._left = False
        self._ending = threading.Lock()
        self._sending = threading.Lock()
        self._heart: Heart | None = None

    @classmethod
    def join(
        cls,
        rank: Rank,
        folder: RunDirectory,
        timeout: datetime.timedelta,
        told: Callable[[Failure], None],
    ) -> SupervisorClient:
        """Meet all other ranks. Called by all ranks, before anything that can fail on one alone.

        Args:
            rank: This rank.
            folder: The run's folder; rank 0's counts.
            timeout: For all ranks to appear.
            told: Called with the run's first failure before this process ends by it.

        Raises:
            MimoError: the ranks cannot meet, rank 0 cannot be reached, or it refuses this rank.
        """
        token = take_token()
        store, seconds = open_store(rank, timeout), timeout.total_seconds()
        hub = None
        if rank.rank == 0:
            hub = Supervisor(
                address=hub_address(rank),
                world_size=rank.world_size,
                folder=folder,
                timeout=seconds,
                token=token or (shared := new_token()),
            )
            publish_hub(store, hub.port, None if token else shared)
        watch = cls(rank, folder, store, hub, told)
        place, welcome = watch._meet(lambda: find_hub(store, rank, token), seconds)
        watch.store = dist.PrefixStore(f"mimo/{place.attempt}", store)
        if "folder" not in welcome:
            watch._end(watch._failure(welcome))
        watch.folder = RunDirectory(Path(welcome["folder"]))
        threading.Thread(target=watch._listen, name="mimo watch", daemon=True).start()
        return watch

    def _meet(self, find: Callable[[], Place], seconds: float) -> tuple[Place, dict[str, Any]]:
        """Join at the hub; gives where it is, and its first message, which is empty if rank 0 has
        ended.

        The agent's store may still name the hub of an attempt before a restart.

        Raises:
            MimoError: rank 0 cannot be reached, or has refused this rank.
        """
        rank, deadline, reached = self._rank, time.monotonic() + seconds, False
        os.register_at_fork(after_in_child=self._close_in_child)
        while True:
            hub = find()
            try:
                patience = _AGAIN_TIMEOUT if reached else seconds
                connection = socket.create_connection((hub.address, hub.port), patience)
            except OSError as error:
                if reached:
                    return hub, {}
                if is_the_agents() and time.monotonic() < deadline:
                    time.sleep(_AGAIN_SECONDS)
                    continue
                raise MimoError(
                    f"rank {rank.rank} cannot reach rank 0 at {hub.address}:{hub.port}: {error}; "
                    "rank 0 may have failed (see its screen), or ports are closed between the "
                    "machines",
                    code="launch.unreachable",
                    rank=rank.rank,
                    address=f"{hub.address}:{hub.port}",
                ) from error
            self._connection, self._received = watched(connection), Lines(LONGEST_LINE)
            connection.settimeout(None)
            with suppress(OSError):
                connection.sendall(hub.token.encode() + b"\n")
            self._send({"join": rank.rank, "screen": rank.screen})
            welcome = self._receive()
            if "refused" in welcome:
                cause = printable(str(welcome["refused"]))
                message = f"rank 0 has refused rank {rank.rank}: {cause}"
                raise MimoError(message, code="launch.refused", rank=rank.rank)
            if welcome or time.monotonic() > deadline:
                return hub, welcome
            # The hub closes connections if there are too many.
            connection.close()
            reached = True
            time.sleep(_AGAIN_SECONDS)

    def name_ranks(self, label: Callable[[int], str]) -> None:
        """From here on messages name ranks by ``label``."""
        self._label = label
        self._send({"label": label(self._rank.rank)})

    def start_heartbeats(self, limits: Limits) -> None:
        """Have rank 0 notice where this rank hangs, and this rank where rank 0 does. Called by all
        ranks, once."""
        if self._hub is not None:
            self._hub.expect_heartbeats(limits)
        self._heart = Heart(limits, self._send, self._lose_rank_0)

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
        if self._heart is not None:
            self._heart.stop()
        self._send({"done": True})
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)

    def _listen(self) -> None:
        while "beat" in (said := self._receive()):
            if self._heart is not None:
                self._heart.hear()
        if self._left:
            return
        self._learn(self._failure(said))

    def _learn(self, failure: Failure) -> None:
        """The run's first failure: end by it."""
        self._first = failure
        self._heard.set()
        if self._ending.acquire(blocking=False):
            self._end(self._first)

    def _lose_rank_0(self, message: str) -> None:
        """Rank 0, and so the hub, is hung."""
        if self._left:
            return
        log = str(self.folder.log(0))
        self._learn(
            Failure(rank=0, label=self._label(0), message=message, log=log, silent=True, hung=True)
        )

    def _end(self, failure: Failure) -> None:
        try:
            self._told(failure)
            if self._hub is not None:
                self._hub.wait_for_others(_PATIENCE)
        finally:
            os._exit(failure.code)

    def _failure(self, said: dict[str, Any]) -> Failure:
        with suppress(Malformed):
            if "failure" in said:
                return Failure.from_message(said["failure"], self.folder)
        return Failure(
            rank=0,
            label=self._label(0),
            message="ended without a word, or its machine cannot be reached any more",
            log=str(self.folder.log(0)),
            silent=True,
        )

    def _send(self, message: dict[str, Any]) -> None:
        with self._sending, suppress(OSError):
            self._connection.sendall(encode(message))

    def _receive(self) -> dict[str, Any]:
        """The next message; an empty one if the connection ended, or brought none that is."""
        try:
            while (line := self._received.next()) is None:
                more = self._connection.recv(65536)
                if not more:
                    return {}
                self._received.add(more)
            return decode(line)
        except (OSError, Malformed):
            return {}

    def _close_in_child(self) -> None:
        close_in_child(self._connection)
