"""``docs/plugins/reference.md`` says of hooks and public names what the code says."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import pytest

import mimo_core
from mimo_core.plugins import hookspecs
from mimo_core.plugins.docgen import reference
from mimo_core.plugins.registration import new_manager, specifications
from mimo_core.plugins.source_reader import Named, hooks, public

from ..helpers.paths import ROOT

PAGE = ROOT / "docs" / "plugins" / "reference.md"
MODULES = ("mimo_core", "mimo_core.building", "mimo_core.testing")
HOOKS = {spec.name: spec for spec in hooks("mimo_core.plugins.hookspecs")}


def section(name: str) -> str:
    """What the page has under a heading, in one line."""
    (found,) = re.findall(rf"^### `{name}`\n(.*?)^###? ", PAGE.read_text() + "## ", re.M | re.S)
    return " ".join(found.split())


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), (
        "run: python -m mimo_core.plugins.docgen > docs/plugins/reference.md"
    )


@pytest.mark.parametrize("hook", specifications(new_manager()))
def test_every_hook_is_there_as_pluggy_has_it(hook: str) -> None:
    """Its signature as Python sees it, what it gives, and who asks it when."""
    said = section(hook)
    signature = inspect.signature(getattr(hookspecs, hook))
    assert all(f"{name}: {p.annotation}" in said for name, p in signature.parameters.items())
    assert f"-> {signature.return_annotation}" in said
    assert re.search(r"\. Asked ", said), "say who asks it, and when"


def test_all_that_can_be_imported_is_there() -> None:
    names = set(re.findall(r"^### `(\w+)`$", PAGE.read_text(), re.M))
    found = {name for module in MODULES for name in (one.name for one in public(module))}
    assert names == found | set(HOOKS)
    assert set(mimo_core.__all__) <= found


@pytest.mark.parametrize("module", MODULES)
def test_nothing_public_is_without_a_word_of_what_it_is(module: str) -> None:
    assert [place for one in public(module) for place in bare(one)] == []


def bare(one: Named) -> Iterator[str]:
    """What of a name has no docstring."""
    if not one.meaning:
        yield one.name
    yield from (f"{one.name}.{field.name}" for field in one.fields if not field.meaning)
    known = ("__len__", "__getitem__", "forward")
    yield from (
        f"{one.name}.{m.name}" for m in one.methods if not m.meaning and m.name not in known
    )
