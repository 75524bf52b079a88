"""``docs/reference/errors.md``: every code of an error, with its cause and its remedy.

``python -m mimo_core.errors.docgen > docs/reference/errors.md``
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from importlib.util import find_spec

from mimo_core.errors.codes import CODES, ErrorCodes

_HEAD = """\
# Error codes

<!-- Made: python -m mimo_core.errors.docgen > docs/reference/errors.md; a test compares. -->

Every error that a user can fix ends with a code in brackets, such as `[recipe.unknown-key]`. A
code keeps its meaning from version to version; messages may change. In Python, a `MimoError` has
`code`, `path` (keys of the recipe) and `values`; one error can hold several `problems`, each with
its own.

A plugin's code begins with the name of the plugin. To list its codes, a plugin has a mapping
`ERROR_CODES` in the module `error_codes` of its package.
"""


def plugin_codes() -> dict[str, ErrorCodes]:
    """The codes of the installed plugins, by plugin, without importing the plugins themselves."""
    found = {}
    for entry in entry_points(group="mimo.plugins"):
        package = entry.module.partition(".")[0]
        if find_spec(f"{package}.error_codes") is not None:
            found[entry.name] = importlib.import_module(f"{package}.error_codes").ERROR_CODES
    return found


def reference(plugins: Mapping[str, ErrorCodes]) -> str:
    """The whole page.

    Args:
        plugins: Codes of plugins, by plugin.
    """
    return "\n".join([_HEAD, *_sections(plugins)])


def _sections(plugins: Mapping[str, ErrorCodes]) -> Iterator[str]:
    areas: dict[str, dict[str, tuple[str, str]]] = {}
    for code, explained in sorted(CODES.items()):
        areas.setdefault(code.partition(".")[0], {})[code] = explained
    for area, codes in areas.items():
        yield from _section(area.capitalize(), codes)
    for plugin, listed in sorted(plugins.items()):
        yield from _section(f"Plugin {plugin}", listed)


def _section(title: str, codes: ErrorCodes) -> Iterator[str]:
    yield f"## {title}\n"
    yield "| code | cause | remedy |\n|---|---|---|"
    for code, (cause, remedy) in sorted(codes.items()):
        yield f"| `{code}` | {cause} | {remedy} |"
    yield ""


if __name__ == "__main__":
    print(reference(plugin_codes()), end="")
