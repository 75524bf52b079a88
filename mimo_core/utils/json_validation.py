"""Types of values in JSON that others wrote, such as a model's ``config.json``."""

from __future__ import annotations

import math
import types
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

_DUE = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a string",
    list: "a list",
    dict: "an object",
}
_IS = {int: "a number", float: "a number", bool: "a boolean", str: "a string", list: "a list"}


def wrong_types(values: Mapping[str, Any], due: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong, each to be read after the name of the file: ``says hidden_size '32' (a
    string); expected a whole number``.

    Args:
        values: A JSON object. A key that is absent or ``null`` is not looked at.
        due: By key ``int``, ``float`` (whole numbers too, none that is infinite or no number),
            ``bool``, ``str``, ``list``, ``dict``, ``list[int]``, ``list[float]``, ``list[str]``, or
            several of these (``int | list[int]``).
    """
    for key, kind in due.items():
        value = values.get(key)
        if value is not None and not _fits(value, kind):
            text = repr(value)
            shown = text if len(text) <= 60 else f"{text[:57]}..."
            yield f"says {key} {shown} ({_is(value)}); expected {_words(kind)}"


def _fits(value: object, kind: Any) -> bool:
    if isinstance(kind, types.UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_fits(one, get_args(kind)[0]) for one in value)
    if kind is float:
        return type(value) is int or (type(value) is float and math.isfinite(value))
    return type(value) is kind


def _is(value: object) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "not finite"
    return _IS.get(type(value), "an object")


def _words(kind: Any) -> str:
    if isinstance(kind, types.UnionType):
        return " or ".join(_words(one) for one in get_args(kind))
    if get_origin(kind) is list:
        return {int: "a list of whole numbers", float: "a list of numbers"}.get(
            get_args(kind)[0], "a list of strings"
        )
    return _DUE[kind]
