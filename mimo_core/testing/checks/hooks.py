"""Hooks and their signatures, and the contract they were written for."""

from __future__ import annotations

from collections.abc import Iterator

from mimo_core.errors import PluginError
from mimo_core.plugins.registration import new_manager, register
from mimo_core.plugins.versions import check_contract
from mimo_core.testing.fixtures import REQUIRED, Bench
from mimo_core.testing.outcome import Finding


def signatures(bench: Bench) -> Iterator[Finding]:
    """The plugin is importable, its hooks fit their specifications, and none is missing."""
    kind = bench.subject.kind
    try:
        record = bench.host.get_plugin(bench.name)
    except PluginError as error:
        yield Finding(
            said=str(error),
            fix="mend the plugin's module until `mimo plugins list` calls it usable",
        )
        return
    marks = register(new_manager(), bench.name, bench.loaded())
    for told in marks.warnings:
        yield Finding(said=f"{record.title}: {told}", fix="mend it before you release")
    missing = [hook for hook in REQUIRED[kind] if hook not in marks.implementations]
    missing = [hook for hook in missing if hook not in marks.unmarked]
    if missing:
        yield Finding(
            said=f"{record.title} lacks {_hooks(missing)}; it is checked as kind {kind!r}, which "
            f"needs {', '.join(REQUIRED[kind])}",
            fix=f"write {', '.join(missing)} (docs/plugins has every hook), or check it as another "
            f"kind: it implements {', '.join(sorted(marks.implementations)) or 'none'}",
        )
    if kind == "wrapper" and not marks.wrappers:
        yield Finding(
            said=f"{record.title} is checked as kind 'wrapper', but wraps no hook",
            fix="mark what wraps with @mimo_core.hookimpl(wrapper=True); other kinds need "
            + "; ".join(f"{one}: {', '.join(hooks)}" for one, hooks in REQUIRED.items() if hooks),
        )


def _hooks(names: list[str]) -> str:
    return f"hook{'s' if len(names) > 1 else ''} {', '.join(names)}"


def contract(bench: Bench) -> Iterator[Finding]:
    """The plugin says which version of the hooks it was written for."""
    try:
        check_contract(bench.loaded())
    except PluginError as error:
        yield Finding(
            said=f"plugin {bench.name!r}: {error}",
            fix="state in mimo_contract the oldest contract that it runs with, beside its hooks",
        )
