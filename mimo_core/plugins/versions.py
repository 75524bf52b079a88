"""The contract between host and plugins: which version a plugin was written for, what is leaving.

The contract is the hooks with their arguments, and the public names of ``mimo_core``,
``mimo_core.building`` and ``mimo_core.testing``. Its version is ``major.minor``: a minor one adds,
a major one takes away. A plugin states in ``mimo_contract`` the oldest that it runs with.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

import attrs

from mimo_core.contract import CONTRACT
from mimo_core.errors import PluginError

ATTRIBUTE = "mimo_contract"


@attrs.frozen(kw_only=True)
class Deprecation:
    """Something of the contract that will go with the next major version."""

    what: str
    """``hook NAME`` or ``argument HOOK.NAME``; the listing tells of plugins that have them. A
    public name that will go warns by itself, where it is taken."""
    since: str
    """Contract version that deprecated it."""
    instead: str
    """What to write in its place."""

    @property
    def told(self) -> str:
        return (
            f"{self.what} is deprecated since contract {self.since} and goes with "
            f"{int(self.since.partition('.')[0]) + 1}.0: {self.instead}"
        )


DEPRECATIONS: tuple[Deprecation, ...] = ()
"""All of this major version; the table of ``docs/plugins/versioning.md`` is made from it."""


def check_contract(plugin: object, offered: str = CONTRACT) -> None:
    """Whether a plugin was written for a contract that this host offers.

    Raises:
        PluginError: it states none, one that is none, or one that this host has not, or no longer.
    """
    stated = getattr(plugin, ATTRIBUTE, None)
    if stated is None:
        raise PluginError(
            f"it states no contract version; write {ATTRIBUTE} = {offered!r} beside its hooks: the "
            "oldest contract that it runs with",
            code="plugin.contract",
            offered=offered,
        )
    match = re.fullmatch(r"(\d+)\.(\d+)", stated) if isinstance(stated, str) else None
    if match is None:
        message = f"{ATTRIBUTE} = {stated!r}: expected a text such as {offered!r}"
        raise PluginError(message, code="plugin.contract", stated=stated, offered=offered)
    wanted = tuple(map(int, match.groups()))
    major, minor = map(int, offered.split("."))
    this = f"mimo-core {core_version()} offers contract {offered}"
    if wanted > (major, minor):
        raise PluginError(
            f"it was written for contract {stated}, but {this}; install a newer mimo-core, or an "
            "older version of the plugin",
            code="plugin.contract",
            stated=stated,
            offered=offered,
        )
    if wanted[0] < major:
        raise PluginError(
            f"it was written for contract {stated}, but {this}, which took things away since; "
            "install a newer version of the plugin, or an older mimo-core",
            code="plugin.contract",
            stated=stated,
            offered=offered,
        )


def deprecated(hooks: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """What of a plugin will stop working: a line each.

    Args:
        hooks: Arguments that the plugin's functions take, by hook.
    """
    used = {f"hook {hook}" for hook in hooks}
    used |= {f"argument {hook}.{name}" for hook, names in hooks.items() for name in names}
    return tuple(one.told for one in DEPRECATIONS if one.what in used)


def core_version() -> str:
    """Of the distribution ``mimo-core``."""
    try:
        return version("mimo-core")
    except PackageNotFoundError:
        return "(not installed as a distribution)"
