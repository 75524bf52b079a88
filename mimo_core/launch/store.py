"""Where the ranks meet: torch's store, and in it the place of the hub."""

from __future__ import annotations

import datetime
import json
import os
import secrets
import socket
from contextlib import suppress

import attrs
import torch.distributed as dist
from torch.distributed import rendezvous

from mimo_core.errors import MimoError
from mimo_core.launch.protocol import TOKEN
from mimo_core.launch.rank_env import Rank

LOOPBACK = "127.0.0.1"
_HUB = "mimo/hub"
_AGENT = "TORCHELASTIC_USE_AGENT_STORE"
"""``True`` where torchrun's agent has opened the store."""


@attrs.frozen(kw_only=True)
class Place:
    """Where the hub listens, and what it asks for first."""

    address: str
    port: int
    token: str
    attempt: str
    """Random, and another one after a restart of the ranks."""


def open_store(rank: Rank, timeout: datetime.timedelta) -> dist.Store:
    """Open the store that all ranks share. Called by all ranks; returns once all have.

    Rank 0 serves it, unless torchrun's agent does. If all ranks are on one machine, it listens on
    the loopback: by itself it would listen on all interfaces, and it asks nobody for a token.

    Args:
        rank: This rank.
        timeout: For all ranks to appear, and of later requests.

    Raises:
        MimoError: the port of the store is in use.
    """
    if not rank.one_machine or is_the_agents():
        store, _, _ = next(iter(rendezvous("env://", rank.rank, rank.world_size, timeout=timeout)))
    else:
        port, listener = int(os.environ["MASTER_PORT"]), None
        if rank.rank == 0:
            try:
                listener = socket.create_server((LOOPBACK, port), backlog=rank.world_size)
            except OSError as error:
                raise MimoError(
                    f"the ranks cannot meet at {LOOPBACK}:{port}: {error}; set MASTER_PORT to a "
                    "free port",
                    code="launch.port-in-use",
                    port=port,
                ) from error
        store = dist.TCPStore(
            LOOPBACK,
            port,
            rank.world_size,
            is_master=rank.rank == 0,
            timeout=timeout,
            multi_tenant=True,
            master_listen_fd=None if listener is None else listener.detach(),
        )
    store.set_timeout(timeout)
    return store


def is_the_agents() -> bool:
    """Whether torchrun's agent serves the store, which then outlives a restart of the ranks: what
    an earlier attempt has put there stays."""
    return os.environ.get(_AGENT) == str(True)


def hub_address(rank: Rank) -> str:
    """By which the ranks reach the machine of rank 0."""
    return LOOPBACK if rank.one_machine else os.environ["MASTER_ADDR"]


def publish_hub(store: dist.Store, port: int, token: str | None) -> None:
    """Tell all ranks where the hub listens. Called by rank 0.

    Args:
        store: The store that the ranks share.
        port: Of the hub.
        token: The run's token; ``None`` if all ranks have it from their environment.
    """
    values = {"port": port, "token": token, "attempt": secrets.token_hex(8)}
    store.set(_HUB, json.dumps(values))


def find_hub(store: dist.Store, rank: Rank, token: str | None) -> Place:
    """Where the hub listens. Called by all ranks.

    Args:
        store: The store that the ranks share.
        rank: This rank.
        token: The token from this rank's environment.

    Raises:
        MimoError: rank 0 has a token that this rank has not, or the store holds something else.
    """
    found = None
    with suppress(ValueError):
        found = json.loads(store.get(_HUB))
    if not isinstance(found, dict) or not isinstance(found.get("port"), int):
        raise MimoError(
            f"rank {rank.rank} cannot read where rank 0 listens; do all machines have the same "
            "version of mimo-core, and this run's own MASTER_PORT?",
            code="launch.other-store",
            rank=rank.rank,
        )
    shared = found.get("token")
    if shared is None and token is None:
        raise MimoError(
            f"rank 0 has {TOKEN} in its environment, and rank {rank.rank} has not; set it to the "
            "same value on all machines, or on none",
            code="launch.token",
            variable=TOKEN,
            rank=rank.rank,
        )
    return Place(
        address=hub_address(rank),
        port=found["port"],
        token=str(shared or token),
        attempt=str(found.get("attempt")),
    )
