"""All that a plugin may import, as text: names, signatures, fields. Prints it when run.

After a deliberate change run ``python tests/helpers/public_surface.py >
tests/helpers/public_surface.txt``, together with a contract version and a line in
``docs/plugins/versioning.md`` that say so.
"""

from __future__ import annotations

import importlib
import inspect
import types
from collections.abc import Iterator
from typing import Any

import attrs

MODULES = ("mimo_core", "mimo_core.building", "mimo_core.testing")


def surface() -> str:
    """One line for each name, field, method and hook."""
    lines = [line for module in MODULES for line in _module(module)]
    return "\n".join([*lines, *_hooks()]) + "\n"


def _module(name: str) -> Iterator[str]:
    module = importlib.import_module(name)
    for public in sorted(module.__all__):
        yield from _told(f"{name}.{public}", getattr(module, public))


def _told(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, type) and value.__module__.startswith("mimo_core"):
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        yield f"{name}: class({bases})"
        yield from (f"{name}.{line}" for line in sorted(_members(value)))
    elif inspect.isroutine(value):
        yield f"{name}{_signature(value)}"
    elif isinstance(value, str):
        yield f"{name} = {value!r}"
    else:
        yield f"{name}: {value if _is_type(value) else type(value).__name__}"


def _is_type(value: Any) -> bool:
    return hasattr(value, "__origin__") or isinstance(value, types.UnionType)


def _members(cls: type) -> Iterator[str]:
    fields = attrs.fields_dict(cls) if attrs.has(cls) else {}
    for name, field in fields.items():
        default = "" if field.default is attrs.NOTHING else f" = {_default(field.default)}"
        yield f"{name}: {field.type}{default}"
    for name, kind in vars(cls).get("__annotations__", {}).items():
        if name not in fields:
            yield f"{name}: {kind}"
    for name, member in vars(cls).items():
        if name.startswith("_") and name not in ("__init__", "__len__", "__getitem__"):
            continue
        function = inspect.unwrap(member.fget if isinstance(member, property) else member)
        if name == "__init__" and (fields or getattr(cls, "_is_protocol", False)):
            continue
        if isinstance(member, property):
            yield f"{name}: property {_signature(function)}"
        elif inspect.isfunction(function):
            yield f"{name}{_signature(function)}"


def _default(value: Any) -> str:
    return f"{value.factory.__name__}()" if isinstance(value, attrs.Factory) else repr(value)


def _signature(function: Any) -> str:
    return str(inspect.signature(function)).replace("'", "")


def _hooks() -> Iterator[str]:
    hooks = importlib.import_module("mimo_core.plugins.hookspecs")
    for name, function in sorted(vars(hooks).items()):
        if hasattr(function, "mimo_spec"):
            yield f"hook {name}{_signature(function)}"


if __name__ == "__main__":
    from mimo_core import platforms

    # Megatron is imported as a rank does it.
    platforms.select()
    print(surface(), end="")
