"""Which fields of ``modules.NAME.megatron`` a module reads of its config."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from megatron.core.transformer import TransformerConfig

_READ: dict[str, set[str]] = {}


class _Field:
    """A field of a config that counts as read once it is looked up. Copies of the config share
    the count."""

    def __init__(self, name: str, read: set[str]) -> None:
        self._name = name
        self._read = read

    def __get__(self, config: Any, _owner: type) -> Any:
        if config is None:
            return self
        self._read.add(self._name)
        return config.__dict__[self._name]

    def __set__(self, config: Any, value: Any) -> None:
        config.__dict__[self._name] = value


def watched_config(module: str, fields: Iterable[str], values: dict[str, Any]) -> TransformerConfig:
    """Make a module's config; reads of fields after its construction count.

    Args:
        module: Its name in the recipe.
        fields: Names of the fields whose reads count.
        values: All fields of the config.

    Raises:
        AssertionError, ValueError: Megatron does not take the values.
    """
    before = frozenset(_READ.get(module, ()))
    read = _READ.setdefault(module, set())
    descriptors = {name: _Field(name, read) for name in fields}
    kind: type[TransformerConfig] = type("TransformerConfig", (TransformerConfig,), descriptors)
    config = kind(**values)
    read.intersection_update(before)
    return config


def fields_read(module: str) -> frozenset[str]:
    """The watched fields that the parts of a module on this rank have read so far."""
    return frozenset(_READ.get(module, ()))
