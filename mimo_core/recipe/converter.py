"""Plain values into attrs classes: strict about types, and every mistake has its path."""

from __future__ import annotations

import math
import re
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, Union, get_args, get_origin, is_typeddict

import attrs
import cattrs
from cattrs import cols
from cattrs.errors import (
    AttributeValidationNote,
    BaseValidationError,
    ForbiddenExtraKeysError,
    IterableValidationNote,
)

from mimo_core.contract import Grid, Precision, TrainingConfig
from mimo_core.errors import MimoError, Problem, nearest, suggestion
from mimo_core.recipe import schema, validators
from mimo_core.recipe.aliases import instead_of
from mimo_core.recipe.megatron_schema import ENGINE_FIELDS
from mimo_core.recipe.yaml_source import Path

_RULES: dict[type, Callable[[Any], Iterator[Problem]]] = {
    Grid: validators.grid,
    TrainingConfig: validators.train,
    schema.DataRecipe: validators.data,
    schema.ValidationRecipe: validators.validation,
    schema.CheckpointRecipe: validators.checkpoint,
    schema.ProfileRecipe: validators.profile,
    schema.HeartbeatRecipe: validators.heartbeat,
}
_RECIPE = frozenset({schema.Recipe, schema.ModuleRecipe, schema.TokenizerRecipe, *_RULES})
"""Classes of a recipe itself: not those of plugins' options."""
WRONG_TYPE = "recipe.wrong-type"
UNKNOWN_CHOICE = "recipe.unknown-choice"
INVALID = "recipe.invalid-value"
_NOUNS = {int: "an integer", float: "a number", bool: "true or false", str: "text"}


class _Mismatch(MimoError):
    """A value of a wrong type, or none of the choices."""


def structure[T](cls: type[T], values: object, path: Path = ()) -> tuple[T | None, list[Problem]]:
    """An instance of ``cls``, or ``None`` and all that is wrong with ``values``."""
    try:
        return CONVERTER.structure(values, cls), []
    except Exception as error:
        return None, list(_flatten(error, path, values))


def plain(instance: object) -> Any:
    """An instance of attrs classes as plain values, ready for YAML."""
    return CONVERTER.unstructure(instance)


def said_of(value: object) -> str:
    """A value in a message, with its type where its look might deceive."""
    if value is None:
        return "nothing (null)"
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def _scalar(value: object, kind: type) -> object:
    if isinstance(value, float) and kind is float and not math.isfinite(value):
        message = f"expected a finite number, got {value}"
        raise _Mismatch(message, code=validators.OUT_OF_RANGE, value=value)
    if type(value) is kind:
        return value
    if kind is float and type(value) is int:
        return float(value)
    raise _wrong_type(_NOUNS[kind], value)


def _literal(value: object, kind: Any) -> object:
    allowed = get_args(kind)
    for choice in allowed:
        if type(choice) is type(value) and choice == value:
            return choice
    if allowed == get_args(Precision) and isinstance(value, str) and value in ENGINE_FIELDS:
        raise _Mismatch(ENGINE_FIELDS[value], code=UNKNOWN_CHOICE, value=value, choices=allowed)
    near = suggestion(value, map(str, allowed)) if isinstance(value, str) else ""
    raise _Mismatch(
        f"expected one of {_choices(allowed)}, got {said_of(value)}.{near}".rstrip("."),
        code=UNKNOWN_CHOICE,
        value=value,
        choices=allowed,
    )


def _wrong_type(expected: str, value: object) -> _Mismatch:
    message = f"expected {expected}, got {said_of(value)}"
    return _Mismatch(message, code=WRONG_TYPE, value=value, expected=expected)


def _choices(allowed: tuple[object, ...]) -> str:
    return ", ".join(map(repr, allowed))


def _union(kind: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    members = [member for member in get_args(kind) if member is not types.NoneType]
    optional = len(members) < len(get_args(kind))

    def hook(value: object, _: object) -> object:
        if value is None and optional:
            return None
        if len(members) == 1:
            return converter.structure(value, members[0])
        for member in members:
            try:
                return converter.structure(value, member)
            except Exception:
                continue
        nouns = [_NOUNS.get(member, getattr(member, "__name__", str(member))) for member in members]
        raise _wrong_type(" or ".join(nouns), value)

    return hook


def _is_literal(kind: Any) -> bool:
    origin: Any = get_origin(kind)
    return origin is Literal


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _is_collection(kind: Any) -> bool:
    return not is_typeddict(kind) and (
        attrs.has(kind)
        or cols.is_sequence(kind)
        or cols.is_any_set(kind)
        or cols.is_mapping(kind)
        or kind is tuple
        or get_origin(kind) is tuple
    )


def _checked(converter: cattrs.Converter) -> None:
    """Puts a check of the outer type, and the rules of the class, before cattrs' own hooks."""
    under_way: set[Any] = set()

    def factory(kind: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
        under_way.add(kind)
        try:
            stock = (
                # cattrs' own hook of mappings would register itself in place of this one
                cols.mapping_structure_factory(kind, converter, detailed_validation=True)
                if cols.is_mapping(kind)
                else converter.get_structure_hook(kind, cache_result=False)
            )
        finally:
            under_way.discard(kind)
        keyed = attrs.has(kind) or cols.is_mapping(kind)
        rule = _RULES.get(kind) if isinstance(kind, type) else None

        def hook(value: Any, _: Any) -> Any:
            if keyed and not isinstance(value, Mapping):
                raise _wrong_type("a mapping of keys", value)
            if not keyed and not isinstance(value, list | tuple):
                raise _wrong_type("a list", value)
            result = stock(value, kind)
            problems = list(rule(result)) if rule else []
            if problems:
                raise validators.RecipeValidationError.of(problems)
            return result

        return hook

    converter.register_structure_hook_factory(
        lambda kind: _is_collection(kind) and kind not in under_way, factory
    )


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    _checked(converter)
    for kind in _NOUNS:
        converter.register_structure_hook(kind, _scalar)
    converter.register_structure_hook_func(_is_literal, _literal)
    converter.register_structure_hook_factory(_is_union, _union)
    return converter


CONVERTER = _make_converter()


def _flatten(error: Exception, path: Path, values: object) -> Iterator[Problem]:
    """The leaves of cattrs' tree of exceptions, each with the path of what it is about."""
    if isinstance(error, BaseValidationError):
        for inner in error.exceptions:
            key = _key(inner)
            if key is None:
                yield from _flatten(inner, path, values)
            elif _is_missing(inner, key, values):
                yield Problem("this key is missing", "recipe.missing-key", (*path, key))
            else:
                yield from _flatten(inner, (*path, key), _below(values, key))
    elif isinstance(error, ForbiddenExtraKeysError):
        if attrs.has(error.cl):
            known = [field.alias for field in attrs.fields(error.cl) if field.init]
        else:
            known = [*error.cl.__annotations__]
        for key in sorted(error.extra_fields):
            listed = f" Known keys: {', '.join(known)}" if known else " It takes no keys"
            near, hint = nearest(key, known), suggestion(key, known)
            if error.cl in _RECIPE and (other := instead_of((*path, key))):
                near, hint = other, f" Use {other}."
            yield Problem(
                f"unknown key {key!r}.{hint}{listed}",
                "recipe.unknown-key",
                (*path, key),
                {"key": key, "nearest": near, "known": tuple(known)},
            )
    elif isinstance(error, MimoError):
        for problem in error.problems:
            yield attrs.evolve(problem, path=path + problem.path, place="")
    else:
        yield _placed(error, path, values)


def _key(error: Exception) -> str | int | None:
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            return note.name
        if isinstance(note, IterableValidationNote):
            return note.index
    return None


def _is_missing(error: Exception, key: str | int, values: object) -> bool:
    return (
        isinstance(error, KeyError)
        and error.args == (key,)
        and isinstance(values, Mapping)
        and key not in values
    )


def _below(values: object, key: str | int) -> object:
    if isinstance(values, Mapping):
        return values.get(key)
    if isinstance(values, list | tuple) and isinstance(key, int) and key < len(values):
        return values[key]
    return None


def _placed(error: Exception, path: Path, values: object) -> Problem:
    """An exception of a validator; attrs' own begin with the name of the field."""
    message = str(error.args[0] if error.args else error)
    named = re.match(r"'(\w+)' (?=must|has|should|not)", message)
    if named and isinstance(values, Mapping) and named[1] in values:
        return Problem(message[named.end() :], INVALID, (*path, named[1]))
    if isinstance(error, ValueError | TypeError):
        return Problem(message, INVALID, path)
    return Problem(f"{type(error).__name__}: {message}", INVALID, path)
