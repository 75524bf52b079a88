"""Which plugins are installed, from metadata alone: nothing is imported here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points

from mimo_core.errors import PluginError, suggestion
from mimo_core.plugins.record import DiscoveredPlugin
from mimo_core.plugins.versions import check_contract
from mimo_core.utils.environment import NO_AUTOLOAD, PLUGINS, switched_on

GROUP = "mimo.plugins"
DISTRIBUTION = "mimo-plugin-"
"""Before the plugin's name: the distribution's."""


def candidates(disabled: Sequence[str], environ: Mapping[str, str]) -> tuple[DiscoveredPlugin, ...]:
    """Installed plugins sorted by name, those that must not load marked as disabled.

    ``MIMO_PLUGINS`` is an allow list; ``MIMO_DISABLE_PLUGIN_AUTOLOAD`` leaves nothing but it;
    ``disabled`` holds the names given to ``--no-plugin``.

    Raises:
        PluginError: two distributions give one name, or a name in either list is not installed.
        MimoError: ``MIMO_DISABLE_PLUGIN_AUTOLOAD`` says neither yes nor no.
    """
    points = _unique(entry_points(group=GROUP))
    allowed = [name for part in environ.get(PLUGINS, "").split(",") if (name := part.strip())]
    _check_installed(allowed, points, PLUGINS)
    _check_installed(disabled, points, "--no-plugin")
    restricted = switched_on(NO_AUTOLOAD, environ) or bool(allowed)

    def why_not(name: str) -> str | None:
        if name in disabled:
            return "by --no-plugin"
        if restricted and name not in allowed:
            return f"not in {PLUGINS}" if allowed else f"by {NO_AUTOLOAD}"
        return None

    return tuple(
        DiscoveredPlugin(
            name=name,
            distribution=_distribution(point),
            version=point.dist.version if point.dist else "unknown",
            load=point.load,
            check=check_contract,
            disabled=why_not(name),
        )
        for name, point in sorted(points.items())
    )


def _unique(points: Collection[EntryPoint]) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in sorted(points, key=lambda point: (point.name, _distribution(point))):
        if point.name in found:
            first, second = _distribution(found[point.name]), _distribution(point)
            raise PluginError(
                f"two plugins are named {point.name!r}: one from distribution {first!r} "
                f"({found[point.name].value}), one from {second!r} ({point.value}). "
                f"Uninstall one of them: pip uninstall {second}",
                code="plugin.same-name",
                plugin=point.name,
                distributions=(first, second),
            )
        found[point.name] = point
    return found


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "unknown"


def _check_installed(names: Sequence[str], installed: Collection[str], where: str) -> None:
    for name in names:
        if name not in installed:
            raise PluginError(
                f"{where} names plugin {name!r}, which is not installed."
                f"{suggestion(name, installed)} "
                f"Installed: {', '.join(sorted(installed)) or 'none'}",
                code="plugin.not-installed",
                plugin=name,
            )
