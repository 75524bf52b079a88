"""The plugin's options class."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, get_type_hints

import attrs
import yaml

from mimo_core.errors import MimoError
from mimo_core.recipe.converter import plain, structure
from mimo_core.recipe.docgen import docstrings
from mimo_core.testing.fixtures import Bench
from mimo_core.testing.outcome import Finding, UndeclaredSupportError


def round_trip(bench: Bench) -> Iterator[Finding]:
    """The options can be read, written as YAML, and read again; nothing changes them."""
    cls = _class(bench)
    given = bench.plain_options()
    told, problems = structure(cls, given)
    for problem in problems:
        key = ".".join(map(str, problem.path)) or "(all)"
        yield Finding(
            said=f"option {key} of {bench.name!r}: {problem.message}",
            fix="mend the options of this test, or the options class that refuses them",
        )
    if told is None:
        return
    again, problems = structure(cls, yaml.safe_load(yaml.safe_dump(plain(told))))
    for problem in problems:
        yield Finding(
            said=f"option {'.'.join(map(str, problem.path))} of {bench.name!r}, as a run writes it "
            f"into recipe.yaml, is refused when the run goes on: {problem.message}",
            fix=f"let {cls.__name__} take what it holds: annotate with plain types, tuples, "
            "Literal or attrs classes, and convert in properties",
        )
    if again is not None and again != told:
        changed = [
            f"{field.name}: {getattr(told, field.name)!r} becomes {getattr(again, field.name)!r}"
            for field in attrs.fields(cls)
            if getattr(told, field.name) != getattr(again, field.name)
        ]
        yield Finding(
            said=f"options of {bench.name!r} change on the way through recipe.yaml: "
            f"{'; '.join(changed) or 'they are not equal'}",
            fix=f"a field of {cls.__name__} must hold what the recipe says; compute the rest in "
            "properties",
        )
    yield from _frozen(cls, told)


def documented(bench: Bench) -> Iterator[Finding]:
    """Every option has a docstring below it, from which its reference is made."""
    cls = _class(bench)
    bare = [name for name, said in _told(cls).items() if not said]
    if bare:
        yield Finding(
            said=f"options of {bench.name!r} without a word of what they do: {', '.join(bare)}",
            fix=f'write a string below each field of {cls.__name__} (in {_file(cls)}): """What it '
            'does, its unit, its default."""',
        )


def _class(bench: Bench) -> type[Any]:
    if not bench.host.implements("options_class", bench.name):
        if bench.subject.options:
            raise MimoError(
                f"{type(bench.subject).__name__}.options are given, but plugin {bench.name!r} has "
                "no hook options()",
                code="testing.wrong-subject",
                subject=type(bench.subject).__name__,
                attribute="options",
                plugin=bench.name,
            )
        raise UndeclaredSupportError("options: the plugin has no hook options()")
    cls: type[Any] = bench.host.call_hook("options_class", bench.name)
    return cls


def _frozen(cls: type[Any], told: Any) -> Iterator[Finding]:
    for field in attrs.fields(cls):
        try:
            setattr(told, field.name, getattr(told, field.name))
        except attrs.exceptions.FrozenError:
            return
        yield Finding(
            said=f"options of {_title(cls)} can be changed after they were read: every rank "
            "must build from the same",
            fix=f"write @attrs.frozen(kw_only=True) above {cls.__name__} (in {_file(cls)})",
        )
        return


def _title(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _told(cls: type[Any]) -> dict[str, str]:
    """The docstring of every field, inherited ones and those of fields' own classes too."""
    found = dict.fromkeys((field.name for field in attrs.fields(cls)), "")
    for owner in reversed(cls.__mro__):
        if attrs.has(owner):
            found |= {name: said for name, said in docstrings(owner).items() if said}
    for name, kind in get_type_hints(cls).items():
        if name in found and isinstance(kind, type) and attrs.has(kind):
            found |= {f"{name}.{inner}": said for inner, said in _told(kind).items()}
    return found


def _file(cls: type[Any]) -> str:
    return inspect.getsourcefile(cls) or cls.__module__
