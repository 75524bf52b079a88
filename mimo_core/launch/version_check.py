"""All ranks have the same plugins: compared before anything is asked of one, or any group made."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

import attrs

from mimo_core.errors import PluginError
from mimo_core.launch.rank_env import Rank
from mimo_core.plugins import Host, PluginRecord

_KEY = "mimo/plugins"
_PACKAGES = ("mimo-core", "megatron-core", "torch")
_ABSENT = "not installed"


class Store(Protocol):
    """Where the ranks met."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes: ...


def compare_plugins(host: Host, rank: Rank, store: Store) -> None:
    """Compare what is installed with what rank 0 has. Called by all ranks.

    Args:
        host: This rank's plugins.
        rank: This rank.
        store: Where the ranks met.

    Raises:
        PluginError: another set of plugins, other versions of them or of the packages below them;
            says what each side has. On the ranks that differ from rank 0.
    """
    mine = _Side(
        where=f"rank {rank.rank} ({socket.gethostname()})",
        has=_installed(host),
        why={_named(record): record.reason for record in host.records if record.reason},
    )
    if rank.rank == 0:
        store.set(_KEY, json.dumps(attrs.asdict(mine)))
    first = _Side(**json.loads(store.get(_KEY)))
    if mine.has != first.has:
        raise PluginError(
            "\n".join(
                [
                    f"{mine.where} has other plugins than {first.where}:",
                    *_differences(first, mine),
                    "install the same versions on all machines, and give all ranks the same "
                    "MIMO_PLUGINS and --no-plugin",
                ]
            ),
            code="launch.other-plugins",
            rank=rank.rank,
            names=_differing(first, mine),
        )


@attrs.frozen(kw_only=True)
class _Side:
    where: str
    has: Mapping[str, str]
    why: Mapping[str, str]
    """Why plugins are broken or disabled: told, not compared, as it may name paths."""


def _installed(host: Host) -> dict[str, str]:
    return {package: _version(package) for package in _PACKAGES} | {
        _named(record): _told(record) for record in host.records
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return _ABSENT


def _told(record: PluginRecord) -> str:
    told = f"{record.distribution} {record.version}"
    return told if record.state == "usable" else f"{told}, {record.state}"


def _named(record: PluginRecord) -> str:
    return f"plugin {record.name!r}"


def _differing(first: _Side, mine: _Side) -> tuple[str, ...]:
    """Packages and plugins that are not the same on both sides."""
    names = sorted(first.has.keys() | mine.has.keys())
    return tuple(name for name in names if first.has.get(name) != mine.has.get(name))


def _differences(first: _Side, mine: _Side) -> Iterator[str]:
    for name in _differing(first, mine):
        yield f"  {name}: {_on(first, name)}, {_on(mine, name)}"


def _on(side: _Side, name: str) -> str:
    why = f" ({side.why[name]})" if name in side.why else ""
    return f"{side.has.get(name, _ABSENT)}{why} on {side.where}"
