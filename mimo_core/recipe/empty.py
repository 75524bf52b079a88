"""Texts of a recipe that are given and empty."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from mimo_core.errors import Problem
from mimo_core.recipe.yaml_source import Path

MESSAGE = "is an empty text; give a value, or leave it out"


def empty_texts(instance: object, path: Path = ()) -> Iterator[Problem]:
    """The empty texts of an attrs instance, and of what it holds.

    A field whose default is an empty text may hold one. Plain mappings, such as the options of a
    plugin before they are structured, are not searched.
    """
    if isinstance(instance, str):
        if not instance.strip():
            yield Problem(MESSAGE, "recipe.empty-text", path)
    elif isinstance(instance, list | tuple | set | frozenset):
        for number, item in enumerate(instance):
            yield from empty_texts(item, (*path, number))
    elif isinstance(instance, Mapping):
        for key, item in instance.items():
            if attrs.has(type(item)):
                yield from empty_texts(item, (*path, key))
    elif attrs.has(cls := type(instance)):
        for field in attrs.fields(cls):
            value = getattr(instance, field.name)
            if value != field.default:
                yield from empty_texts(value, (*path, field.name))
