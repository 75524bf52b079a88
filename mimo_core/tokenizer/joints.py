"""What a tokenizer of SentencePiece's kind adds at the start of every text it encodes.

Such a tokenizer puts a blank before a text and takes it away when it decodes. A sample is encoded
piece by piece, so the blank would stand between any two pieces. Here it is removed from the
components, and the sample's first text gets it explicitly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import tokenizers

SYMBOL = "\u2581"
"""What SentencePiece writes for a blank."""
BLANKS = (" ", SYMBOL)
COMPONENTS = ("normalizer", "pre_tokenizer", "decoder")
"""Parts of a tokenizer that :func:`remove_prefix` may replace."""


def remove_prefix(backend: tokenizers.Tokenizer, content: Mapping[str, Any]) -> bool:
    """Change the backend so that it encodes the inside of a text, and decodes all blanks.

    Args:
        backend: Read from ``content``.
        content: What ``tokenizer.json`` holds.

    Returns:
        Whether the tokenizer puts a blank before a text.
    """
    found: list[str] = []
    parts = {
        "normalizer": _without_prepend(content.get("normalizer"), found),
        "pre_tokenizer": _without_scheme(content.get("pre_tokenizer"), found),
        "decoder": _without_strip(content.get("decoder")),
    }
    changed = [name for name, part in parts.items() if part != content.get(name)]
    if changed:
        made = _components(parts)
        for name in changed:
            setattr(backend, name, getattr(made, name))
    return bool(found)


def _without_prepend(part: Any, found: list[str]) -> Any:
    """A normalizer without ``Prepend`` of a blank (Llama 2's)."""
    if not isinstance(part, dict):
        return part
    if part.get("type") == "Prepend" and part.get("prepend") in BLANKS:
        found.append("normalizer")
        return None
    return _sequence(part, "normalizers", lambda inner: _without_prepend(inner, found))


def _without_scheme(part: Any, found: list[str]) -> Any:
    """A pre-tokenizer whose Metaspace or ByteLevel puts no blank before a text."""
    if not isinstance(part, dict):
        return part
    if part.get("type") == "Metaspace":
        # Files of before tokenizers 0.15 have ``add_prefix_space`` only.
        scheme = part.get("prepend_scheme")
        if scheme is None:
            scheme = "always" if part.get("add_prefix_space", True) else "never"
        if scheme != "never":
            found.append("pre_tokenizer")
        kept = {key: value for key, value in part.items() if key != "add_prefix_space"}
        return {**kept, "prepend_scheme": "never"}
    if part.get("type") == "ByteLevel" and part.get("add_prefix_space", True):
        found.append("pre_tokenizer")
        return {**part, "add_prefix_space": False}
    return _sequence(part, "pretokenizers", lambda inner: _without_scheme(inner, found))


def _without_strip(part: Any) -> Any:
    """A decoder that keeps the blanks at the start."""
    if not isinstance(part, dict):
        return part
    if part.get("type") == "Metaspace":
        kept = {key: value for key, value in part.items() if key != "add_prefix_space"}
        return {**kept, "prepend_scheme": "never"}
    if part.get("type") == "Strip" and part.get("content") in BLANKS and not part.get("stop"):
        return None
    return _sequence(part, "decoders", _without_strip)


def _sequence(part: dict[str, Any], key: str, change: Any) -> Any:
    if part.get("type") != "Sequence":
        return part
    inner = [change(one) for one in part.get(key, [])]
    return {**part, key: [one for one in inner if one is not None]}


def _components(parts: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """A tokenizer with these components and no vocabulary."""
    model = {"type": "BPE", "vocab": {}, "merges": []}
    whole: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [],
        "post_processor": None,
        "model": model,
    }
    return tokenizers.Tokenizer.from_str(json.dumps({**whole, **parts}))
