"""Pieces of a vocabulary that are no ordinary text: bytes, and names of special tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import tokenizers

_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")
_MARK = re.compile(r"<[!-;=?-~]+>|\[[A-Za-z][!-Z^-~]+\]")
"""Names such as ``<|im_start|>``, ``<s>`` and ``[INST]``."""


def byte_pieces(backend: tokenizers.Tokenizer, content: Mapping[str, Any]) -> dict[int, str]:
    """The pieces of a model that falls back to bytes."""
    if not content["model"].get("byte_fallback"):
        return {}
    vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
    return {id_: piece for piece, id_ in vocabulary.items() if _BYTE_PIECE.fullmatch(piece)}


def alphabet(backend: tokenizers.Tokenizer, content: Mapping[str, Any]) -> set[int]:
    """The bytes of a byte-level model."""
    if '"ByteLevel"' not in json.dumps([content.get("pre_tokenizer"), content.get("normalizer")]):
        return set()
    ids = map(backend.token_to_id, tokenizers.pre_tokenizers.ByteLevel.alphabet())
    return {id_ for id_ in ids if id_ is not None}


def marks(backend: tokenizers.Tokenizer, others: set[int]) -> dict[str, int]:
    """Pieces of the model itself that have the name of a special token."""
    vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=False)
    return {
        piece: id_
        for piece, id_ in vocabulary.items()
        if id_ not in others and _MARK.fullmatch(piece)
    }
