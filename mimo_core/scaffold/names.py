"""What a plugin may be named."""

from __future__ import annotations

import re
from importlib.metadata import entry_points

from mimo_core.errors import PluginError
from mimo_core.plugins.discovery import DISTRIBUTION, GROUP

LONGEST = 40


def check_name(name: str) -> None:
    """Whether a new plugin can have the name: the word of recipes, and a part of the names of its
    distribution (normalised as package indexes do) and of its package.

    Raises:
        PluginError: it cannot be part of all three, or an installed plugin has it.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or name.startswith(DISTRIBUTION):
        raise PluginError(
            f"{name!r} is no name for a plugin: it is part of the distribution's name, so it "
            f"begins with a letter and has small letters, digits and single hyphens only."
            f"{_instead(name)}",
            code="scaffold.invalid-name",
            name=name,
        )
    if len(name) > LONGEST:
        raise PluginError(
            f"{name!r} has {len(name)} letters; a plugin's name has {LONGEST} at most",
            code="scaffold.invalid-name",
            name=name,
            letters=len(name),
            most=LONGEST,
        )
    for point in entry_points(group=GROUP):
        if point.name == name:
            owner = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"
            raise PluginError(
                f"a plugin named {name!r} is installed already ({owner}), and two of one name "
                "cannot be used together; choose another name, or uninstall that one first",
                code="scaffold.name-in-use",
                name=name,
                distribution=owner,
            )


def _instead(name: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).removeprefix(DISTRIBUTION).strip("-")
    near = words.lstrip("0123456789-")
    return f" Did you mean {near!r}?" if near else ""
