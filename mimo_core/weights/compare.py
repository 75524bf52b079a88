"""What a directory holds of a module: names compared with the module's map, no weight read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import attrs

from mimo_core.contract import FreezePart
from mimo_core.plugins.weight_map import ConstantTensor, ParamMapping, ParamMappings
from mimo_core.utils.json_validation import wrong_types
from mimo_core.weights.safetensors_dir import FLOATS, Entry, read_config, read_directory

_ROUNDED = {"BF16": 2**-8, "F16": 2**-11, "F32": 2**-23, "F64": 2**-23}
"""Relative size of a rounding of each type; options are told in fewer digits than float64's."""
_TYPED = (int, float, bool, str)
"""Of what a module's map says of ``config.json``, what has to have the same type there."""


@attrs.frozen(kw_only=True)
class DirectoryMatch:
    """A directory as one module's weights."""

    directory: Path
    entries: Mapping[str, Entry]
    """All tensors of the directory."""
    prefixes: Mapping[FreezePart, str]
    """What stands before the names of each part that the directory holds."""
    fresh: tuple[FreezePart, ...]
    """Parts that it holds nothing of."""
    unread: Mapping[str, int]
    """What the module has no place for, and how many names of it."""
    others: tuple[str, ...]
    """Names that are other modules'."""
    mistakes: tuple[str, ...]
    """Names that are missing, unexpected, or of another shape or type."""
    notes: tuple[str, ...] = ()
    """What of its ``config.json`` nothing reads."""

    def entry(self, rule: ParamMapping, name: str) -> Entry:
        """Where the directory has a name of a rule."""
        return self.entries[self.prefixes[rule.component] + name]


def match(weights: ParamMappings, directory: Path) -> DirectoryMatch:
    """Compare names, shapes and types of a directory, and its config, with a module's map.

    A part that is absent as a whole begins fresh; one that is partly absent is a mistake. Where
    the main part's names stand below a prefix, as in the directory of a whole model, names
    outside of it are other modules'.

    Raises:
        UnreadableWeightsError: see :func:`~mimo_core.weights.safetensors_dir.read_directory`.
    """
    entries = read_directory(directory)
    parts = dict.fromkeys(rule.component for rule in weights.rules)
    prefixes: dict[FreezePart, str] = {}
    mistakes: list[str] = []
    for part in parts:
        found = _prefixes({name for rule in _of(weights, part) for name in rule.files}, entries)
        if len(found) > 1:
            mistakes.append(
                f"holds the {part} several times, below {', '.join(map(repr, found))}; make a "
                "directory with one of them"
            )
        elif found:
            prefixes[part] = found[0]
    unread: Counter[str] = Counter()
    others: list[str] = []
    notes: list[str] = []
    if not mistakes and not prefixes:
        mistakes.append(_nothing(weights, entries))
    elif not mistakes:
        mistakes += _wrong_weights(weights, entries, prefixes)
        main = prefixes.get(next(iter(parts)))
        if main is not None:
            mistakes += _wrong_constants(weights.constants, main, entries)
            mistakes += _wrong_copies(weights.copies, main, entries)
            config = read_config(directory)
            mistakes += _wrong_config(weights, config)
            notes += _config_notes(weights, config)
        for name in _unclaimed(weights, entries, prefixes, main):
            if (told := _foreign(weights, name, main)) is not None:
                unread[told] += 1
            elif main == "" or name.startswith(_roots(weights, prefixes)):
                mistakes.append(f"has {name}, which the model has not")
            else:
                others.append(name)
    return DirectoryMatch(
        directory=directory,
        entries=entries,
        prefixes=prefixes,
        fresh=tuple(part for part in parts if part not in prefixes),
        unread=unread,
        others=tuple(others),
        mistakes=tuple(mistakes),
        notes=tuple(notes),
    )


def _of(weights: ParamMappings, part: FreezePart) -> Iterator[ParamMapping]:
    return (rule for rule in weights.rules if rule.component == part)


def _prefixes(names: set[str], entries: Iterable[str]) -> list[str]:
    """What most of the names stand behind; several where as many stand behind each."""
    counts: Counter[str] = Counter()
    for entry in entries:
        words = entry.split(".")
        for at in range(len(words)):
            if ".".join(words[at:]) in names:
                counts["".join(f"{word}." for word in words[:at])] += 1
    most = max(counts.values(), default=0)
    return sorted(prefix for prefix, count in counts.items() if count == most)


def _nothing(weights: ParamMappings, entries: Mapping[str, Entry]) -> str:
    wanted = next(iter(weights.rules[0].files))
    return (
        f"holds nothing of this module: no name such as {wanted!r}; its {len(entries)} names are "
        f"such as {', '.join(repr(name) for name in list(entries)[:3])}"
    )


def _wrong_weights(
    weights: ParamMappings, entries: Mapping[str, Entry], prefixes: Mapping[FreezePart, str]
) -> Iterator[str]:
    for rule in weights.rules:
        if rule.component not in prefixes:
            continue
        for short, shape in rule.files.items():
            name = prefixes[rule.component] + short
            entry = entries.get(name)
            if entry is None:
                yield f"lacks {name}"
            elif entry.shape != shape:
                yield f"{name} is {list(entry.shape)}, but the model's is {list(shape)}"
            elif entry.dtype not in FLOATS:
                yield f"{name} is of type {entry.dtype}; read are {', '.join(sorted(FLOATS))}"


def _wrong_constants(
    constants: Iterable[ConstantTensor], prefix: str, entries: Mapping[str, Entry]
) -> Iterator[str]:
    for constant in constants:
        entry = entries.get(prefix + constant.name)
        if entry is None:
            continue
        count = math.prod(constant.shape)
        due = constant.values * (count if len(constant.values) == 1 else 1)
        if entry.shape != constant.shape:
            shapes = f"is {list(entry.shape)}, not {list(constant.shape)}"
            yield f"{prefix}{constant.name} {shapes}: {constant.meaning}"
            continue
        near = _ROUNDED.get(entry.dtype, 0.0)
        held = entry.values()
        if not all(math.isclose(a, b, rel_tol=near) for a, b in zip(held, due, strict=True)):
            shown = ", ".join(f"{value:g}" for value in held[:4])
            yield f"{prefix}{constant.name} holds {shown}{'…' * (count > 4)}: {constant.meaning}"


def _wrong_copies(
    copies: Mapping[str, tuple[str, str]], prefix: str, entries: Mapping[str, Entry]
) -> Iterator[str]:
    for name, (other, way_out) in copies.items():
        copy, original = entries.get(prefix + name), entries.get(prefix + other)
        if copy is not None and original is not None and not copy.equals(original):
            yield f"holds other numbers as {prefix}{name} than as {prefix}{other}: {way_out}"


def _wrong_config(weights: ParamMappings, config: Mapping[str, Any]) -> Iterator[str]:
    inner = next((key for key in weights.config_below if isinstance(config.get(key), dict)), None)
    told = config if inner is None else config[inner]
    for key, (due, meaning) in weights.config.items():
        held = told.get(key, due)
        if held is None or held == due:
            continue
        if isinstance(held, float) and isinstance(due, float) and math.isclose(held, due):
            continue
        place = key if inner is None else f"{inner}.{key}"
        if type(due) in _TYPED and (wrong := [*wrong_types({place: held}, {place: type(due)})]):
            yield f"config.json {wrong[0]}"
            continue
        yield f"config.json says {place} {held!r}, but here it is {due!r}: {meaning}"
    if config and weights.config_mistakes is not None:
        at = "" if inner is None else f" ({inner})"
        yield from (f"config.json{at} {said}" for said in weights.config_mistakes(told))


def _config_notes(weights: ParamMappings, config: Mapping[str, Any]) -> Iterator[str]:
    if not config:
        yield "there is no config.json: what names and shapes do not tell is as the options say"
    elif weights.config_notes is not None:
        inner = next((k for k in weights.config_below if isinstance(config.get(k), dict)), None)
        told = config if inner is None else config[inner]
        at = "" if inner is None else f" ({inner})"
        yield from (f"config.json{at} {said}" for said in weights.config_notes(told))


def _unclaimed(
    weights: ParamMappings,
    entries: Mapping[str, Entry],
    prefixes: Mapping[FreezePart, str],
    main: str | None,
) -> Iterator[str]:
    """Names of no rule and no constant."""
    ours = {
        prefixes[rule.component] + name
        for rule in weights.rules
        if rule.component in prefixes
        for name in rule.files
    }
    if main is not None:
        ours |= {main + constant.name for constant in weights.constants}
    return (name for name in entries if name not in ours)


def _roots(weights: ParamMappings, prefixes: Mapping[FreezePart, str]) -> tuple[str, ...]:
    """What the names of the parts that were found begin with: prefix and first word."""
    roots = {
        prefixes[rule.component] + name.split(".")[0] + "."
        for rule in weights.rules
        if rule.component in prefixes
        for name in rule.files
    }
    return tuple(roots | {prefix for prefix in prefixes.values() if prefix})


def _foreign(weights: ParamMappings, name: str, main: str | None) -> str | None:
    if main is None or not name.startswith(main):
        return None
    short = name.removeprefix(main)
    for pattern, what in weights.foreign.items():
        if fnmatchcase(short, pattern):
            return f"{main}{pattern} ({what})"
    return None
