"""Hooks and their signatures, and the contract they were written for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mimo_core.errors import PluginError
from mimo_core.plugins.registration import new_manager, register
from mimo_core.testing.bench import REQUIRED, Bench
from mimo_core.testing.outcome import Finding


def signatures(bench: Bench) -> Iterator[Finding]:
    """The plugin is importable, its hooks fit their specifications, and none is missing."""
    kind = bench.subject.kind
    try:
        record = bench.host.require(bench.name)
    except PluginError as error:
        yield Finding(
            said=str(error),
            fix="mend the plugin's module until `mimo plugins list` calls it usable",
        )
        return
    marks = register(new_manager(), bench.name, bench.loaded())
    for name in sorted(marks.unmarked):
        yield Finding(
            said=f"{record.title}: function {name!r} is named like a hook, but the host cannot see "
            "it: it lacks the mark",
            fix=f"put @mimo_core.hookimpl above {name}, or give it another name",
        )
    missing = [hook for hook in REQUIRED[kind] if hook not in marks.implementations]
    missing = [hook for hook in missing if hook not in marks.unmarked]
    if missing:
        yield Finding(
            said=f"{record.title} is tested as kind={kind!r}, but does not implement "
            f"{', '.join(missing)}",
            fix=f"write these hooks (docs/plugins has them), or set kind: it implements "
            f"{', '.join(sorted(marks.implementations)) or 'none'}",
        )
    if kind == "wrapper" and not marks.wrappers:
        yield Finding(
            said=f"{record.title} is tested as kind='wrapper', but wraps no hook",
            fix="mark what wraps with @mimo_core.hookimpl(wrapper=True)",
        )


def contract(bench: Bench) -> Iterator[Finding]:
    """The plugin says which version of the hooks it was written for."""
    stated: Any = getattr(bench.loaded(), "mimo_contract", None)
    if not isinstance(stated, str) or not all(part.isdecimal() for part in stated.split(".")):
        yield Finding(
            said=f"plugin {bench.name!r} states mimo_contract = {stated!r}: the host cannot tell "
            "whether it fits",
            fix='write mimo_contract = "1.0" beside its hooks: the version of the hooks that it '
            "was written for",
        )
