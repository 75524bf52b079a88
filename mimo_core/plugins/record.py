"""What is known of each installed plugin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import attrs

State = Literal["usable", "broken", "disabled"]


@attrs.frozen(kw_only=True)
class DiscoveredPlugin:
    """A plugin that metadata promises; nothing of it has been imported yet."""

    name: str
    distribution: str
    version: str
    load: Callable[[], Any]
    """Imports the plugin and gives the object that holds its hook implementations."""
    check: Callable[[object], None] = lambda _plugin: None
    """Raises where the host cannot use that object."""
    disabled: str | None = None
    """Why it must not be loaded."""


@attrs.frozen(kw_only=True)
class PluginRecord:
    """One installed plugin, as ``mimo plugins list`` shows it."""

    name: str
    distribution: str
    version: str
    state: State
    reason: str | None = None
    """Why it is broken or disabled."""
    hooks: tuple[str, ...] = ()
    """Hooks that it implements, sorted; those that it only wraps are marked ``(wraps)``."""
    warnings: tuple[str, ...] = ()
    """What its authors should mend, though it can be used."""

    @property
    def title(self) -> str:
        """How messages name it."""
        return f"plugin {self.name!r} ({self.distribution} {self.version})"
