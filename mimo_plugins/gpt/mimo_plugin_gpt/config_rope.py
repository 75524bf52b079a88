"""Rotary positions of a decoder's ``config.json``, as transformers reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mimo_plugin_gpt.config_types import ROPE_KEYS, ROPE_READ, ROPE_TYPES

LLAMA3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""What megatron-core's ``RotaryEmbedding`` has fixed beside the factor."""


def rope_values(filled: Mapping[str, Any]) -> dict[str, Any]:
    """The fields ``rope_base`` and ``rope_scaling`` of a shape.

    Args:
        filled: Keys of the file and defaults of its type.
    """
    rope = _rope(filled)
    llama3 = _rope_type(rope) == "llama3"
    return {
        "rope_base": float(rope.get("rope_theta") or filled["rope_theta"]),
        "rope_scaling": float(rope.get("factor") or 1) if llama3 else 1.0,
    }


def refused_rope(filled: Mapping[str, Any], at: str) -> Iterator[str]:
    """What of rotary positions cannot be here, each to be read after the name of the file."""
    rope, place = _rope(filled), f"{at}{_place(filled)}"
    kind = _rope_type(rope)
    partial = rope.get("partial_rotary_factor", filled["partial_rotary_factor"])
    if partial not in (None, 1):
        yield f"says {at}partial_rotary_factor {partial}: all features of a head are turned here"
    for key in rope.keys() - ROPE_TYPES.keys():
        yield f"says {place}.{key} {rope[key]!r}, which cannot be here; {ROPE_READ}"
    if kind == "llama3":
        yield from _refused_llama3(filled, rope, at, place)
    elif kind != "default":
        yield f"says {place}.rope_type {kind!r}; {ROPE_READ}"
    elif not {"rope_type", "type"} & set(rope) and (rope.get("factor") or 1) != 1:
        yield f"says {place} {dict(rope)} without its rope_type; {ROPE_READ}"


def said_of(said: Mapping[str, Any], key: str) -> bool:
    """Whether a file has a key, or ``rope_theta`` and ``rope_scaling.factor`` where it has these.

    Args:
        said: The object of the file that has the keys.
        key: Of the file.
    """
    places = [said.get(place) or {} for place in ROPE_KEYS]
    inner = key.rpartition(".")[2]
    return said.get(key) is not None or any(inner in place for place in places)


def _refused_llama3(
    filled: Mapping[str, Any], rope: Mapping[str, Any], at: str, place: str
) -> Iterator[str]:
    lacking = [key for key in ("factor", "low_freq_factor", "high_freq_factor") if key not in rope]
    if lacking:
        yield f"lacks {place}.{', '.join(lacking)}, which rope_type llama3 needs"
    for key, due in LLAMA3.items():
        found, source = rope.get(key, due), f"{place}.{key}"
        if key == "original_max_position_embeddings":
            found, source = _original(filled, rope, at, place)
        if found != due:
            yield f"says {source} {found}: with rope_type llama3 megatron-core has {key} {due}"


def _original(
    filled: Mapping[str, Any], rope: Mapping[str, Any], at: str, place: str
) -> tuple[int, str]:
    """The length that Llama 3's rule takes as the original one, and the key that says it."""
    key = "original_max_position_embeddings"
    if filled[key] is not None:
        return filled[key], f"{at}{key}"
    if rope.get(key) is not None:
        return rope[key], f"{place}.{key}"
    return filled["max_position_embeddings"], f"no {place}.{key} but {at}max_position_embeddings"


def _place(filled: Mapping[str, Any]) -> str:
    """The key that transformers reads where a file has both."""
    new, old = ROPE_KEYS
    return old if filled[old] or not filled[new] else new


def _rope(filled: Mapping[str, Any]) -> Mapping[str, Any]:
    """Rotary positions as transformers 5 writes them, or as earlier versions did."""
    return filled[_place(filled)] or {}


def _rope_type(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type") or rope.get("type") or "default")
