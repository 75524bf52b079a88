"""Files of one model type that differ in one key, for tests against transformers."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimo_core.plugins.config_keys import BOOKKEEPING, ConfigKeys
from mimo_core.testing.ranks import run_ranks

if TYPE_CHECKING:
    import torch
    from torch import nn

ABSENT = object()
"""A change to this leaves the key out."""
UNCHANGED = frozenset({"model_type", "is_encoder_decoder"})
"""Keys of every file that are not varied: they choose another class of transformers."""


def cases(
    config: Mapping[str, Any],
    values: Mapping[str, Sequence[Any]],
    others: Mapping[str, Mapping[str, Any]],
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Files that lack a key of ``config``, have ``null`` there, or another value; keys that every
    file has and that change nothing all at once.

    Args:
        config: A whole file, with all keys of its class.
        values: By key, what it is changed to; by default one other value of the same type.
        others: By a name that begins with a key, changes to several keys at once.

    Yields:
        A name of the case, the key, and the file.
    """
    still = [key for key in config if key in BOOKKEEPING and key not in UNCHANGED]
    yield "bookkeeping=absent", "", _changed(config, dict.fromkeys(still, ABSENT))
    changes = {key: one for key in still for one in _others(config[key])}
    yield "bookkeeping=changed", "", _changed(config, changes)
    for key, value in config.items():
        if key in BOOKKEEPING or key in UNCHANGED:
            continue
        variants = {"absent": ABSENT, "null": None}
        variants |= {repr(one): one for one in values.get(key, _others(value))}
        for name, changed in variants.items():
            if changed is ABSENT or changed != value:
                yield f"{key}={name}", key, _changed(config, {key: changed})
    for name, change in others.items():
        yield name, name.split("=")[0], _changed(config, change)


def unknown_fields(config: Mapping[str, Any], keys: ConfigKeys) -> list[str]:
    """Keys of a file that a plugin's table does not list."""
    known = keys.defaults.keys() | keys.training.keys() | keys.ignored | BOOKKEEPING | UNCHANGED
    return sorted(config.keys() - known)


def fill(model: nn.Module, small: str = "embed") -> None:
    """Numbers that follow from each parameter's name and shape alone, none at a value that hides
    its use.

    Args:
        model: Its parameters are written to.
        small: Stands in the names of matrices that get small numbers, so that the epsilon of the
            norms shows.
    """
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            numbers = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                parameter.copy_(1 + 0.3 * numbers if "norm" in name else 0.3 * numbers)
            else:
                parameter.copy_(numbers * (0.01 if small in name else 0.2))


def _changed(config: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    changed = {**config, **change}
    return {key: value for key, value in changed.items() if value is not ABSENT}


def _others(value: Any) -> Sequence[Any]:
    """One other value of the same type."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [2 * value or 1]
    if isinstance(value, float):
        return [1.5 * value or 0.5]
    return []


def outcomes(
    files: Iterable[tuple[str, str, dict[str, Any]]],
    mistakes: Callable[[dict[str, Any]], Iterable[str]],
    theirs: Callable[[dict[str, Any]], torch.Tensor],
    ours: torch.Tensor,
) -> dict[str, dict[str, Any]]:
    """What became of each file, by the name of its case: ``refused`` with what is said; the largest
    ``difference`` from what transformers computes, relative to the largest number; or ``neither``
    where transformers makes no model of it.

    Args:
        files: As :func:`cases` gives them.
        mistakes: What a plugin says of a file.
        theirs: What transformers computes with a file, its weights those of :func:`fill`.
        ours: What the plugin's module computes with such weights, of whatever file it accepts.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, key, config in files:
        if said := "; ".join(mistakes(config)):
            found[name] = {"key": key, "refused": said}
            continue
        try:
            expected = theirs(config)
        except Exception as error:
            found[name] = {"key": key, "neither": f"{type(error).__name__}: {error}"[:200]}
            continue
        gap = (ours - expected).abs().max() / expected.abs().max()
        found[name] = {"key": key, "difference": gap.item()}
    return found


def compared(test: str, **arguments: Any) -> Any:
    """What the function ``one_rank`` of ``config_ranks.py`` beside a test returns on one rank.

    Args:
        test: The test's ``__file__``.
        arguments: Keyword arguments of the function.
    """
    ranks = Path(test).with_name("config_ranks.py")
    return run_ranks(f"{ranks}:one_rank", timeout=600.0, **arguments)[0]


def wrong(found: Mapping[str, Mapping[str, Any]], tolerance: float) -> dict[str, Any]:
    """Cases of :func:`outcomes` that are neither the same numbers nor refused by the key's name.

    Args:
        found: Outcomes by the name of the case.
        tolerance: The largest difference, relative to the largest number.
    """
    return {
        name: case
        for name, case in found.items()
        if not ("difference" in case and case["difference"] < tolerance)
        and not ("refused" in case and case["key"] and case["key"] in case["refused"])
        and "neither" not in case
    }


def other_defaults(config_class: type[Any], keys: ConfigKeys) -> dict[str, Any]:
    """Where a plugin's table has another value than transformers' class, before the class derives
    any from others."""
    found = {}
    for key, value in keys.defaults.items():
        theirs = getattr(config_class, key, ABSENT)
        plain = theirs is None or isinstance(theirs, str | int | float | list | tuple)
        if plain and (list(theirs) if isinstance(theirs, tuple) else theirs) != value:
            found[key] = [value, theirs]
    return found
