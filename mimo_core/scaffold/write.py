"""The files of a new plugin: templates with names put in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import attrs

import mimo_core
from mimo_core.contract import CONTRACT
from mimo_core.errors import PluginError, suggestion
from mimo_core.plugins.discovery import DISTRIBUTION
from mimo_core.scaffold.kinds import KINDS, Kind
from mimo_core.scaffold.names import check_name

SUFFIX = ".tmpl"
"""Of every template: nothing takes them for a part of this package, or for tests."""
COMMON = "common"
"""The folder of templates that every kind has."""


@attrs.frozen(kw_only=True)
class Written:
    """A distribution that was written."""

    folder: Path
    files: tuple[str, ...]
    """Relative to the folder, sorted."""


def write_plugin(name: str, kind: str, folder: Path | None = None) -> Written:
    """Writes the distribution of a new plugin.

    Args:
        name: The plugin's, as recipes will say it.
        kind: One of ``KINDS``.
        folder: To be made; the distribution's name in the working directory by default.

    Raises:
        PluginError: the kind is unknown, the name cannot be one or is taken, or the folder holds
            something.
        OSError: it cannot be written.
    """
    if kind not in KINDS:
        raise PluginError(
            f"there is no kind of plugins {kind!r}.{suggestion(kind, KINDS)} "
            f"Kinds: {', '.join(KINDS)}",
            code="command.unknown-kind",
            kind=kind,
            kinds=tuple(KINDS),
        )
    check_name(name)
    folder = folder or Path(f"{DISTRIBUTION}{name}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PluginError(
            f"{folder} exists already and is not an empty folder; give another by --directory",
            code="scaffold.folder-not-empty",
            folder=str(folder),
        )
    values = _values(name, KINDS[kind])
    written = {path: text for top in (COMMON, kind) for path, text in _rendered(top, values)}
    for path, text in written.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    return Written(folder=folder, files=tuple(sorted(written)))


def _values(name: str, kind: Kind) -> dict[str, str]:
    """What stands for ``@word@`` in a template and in its path."""

    def listed(words: tuple[str, ...]) -> str:
        return ", ".join(map(json.dumps, words))

    return {
        "name": name,
        "distribution": f"{DISTRIBUTION}{name}",
        "package": f"{DISTRIBUTION}{name}".replace("-", "_"),
        "contract": CONTRACT,
        "summary": kind.summary,
        "dependencies": listed((f"mimo-core>={mimo_core.__version__}", *kind.dependencies)),
        "package_data": listed(kind.package_data),
        "tested_with": listed(("pytest>=8.3", *kind.tested_with)),
    }


def _rendered(top: str, values: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Paths and contents of the files that a folder of templates makes."""
    for path, template in _templates(files(__package__) / "templates" / top, ""):
        yield (
            _put_in(path.removesuffix(SUFFIX), values).replace("dot-", "."),
            _put_in(template.read_text(encoding="utf-8"), values),
        )


def _templates(folder: Traversable, above: str) -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _templates(entry, f"{above}{entry.name}/")
        elif entry.name.endswith(SUFFIX):
            yield f"{above}{entry.name}", entry


def _put_in(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"@([a-z_]+)@", lambda found: values[found[1]], text)
