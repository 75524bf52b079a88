"""What a fault is: a plugin, the check that must find it, and words of what it must say."""

from __future__ import annotations

from typing import Any, ClassVar

from good_plugins import description

from mimo_core import hookimpl
from mimo_core.testing import Subject

Expected = tuple[str, str]
"""Name of the check; words of its message."""


class Fault(Subject):
    kind = "encoder"
    patience = 8.0
    expected: ClassVar[Expected]


def tower(name: str) -> Any:
    @hookimpl
    def build_submodule(module, groups, platform):
        import faulty_towers
        import good_tower

        return good_tower.encoder(module, groups, getattr(faulty_towers, name))

    return build_submodule


def described(**changes: Any) -> Any:
    @hookimpl
    def describe_module(module):
        return description(module, **changes)

    return describe_module
