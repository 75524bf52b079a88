"""Bytes as tokens: a vocabulary that needs no file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

_BYTES = 256


@attrs.frozen(kw_only=True)
class ByteLevel:
    """Ids: the 256 bytes of UTF-8, padding, end of text."""

    pad: int = _BYTES
    end: int = _BYTES + 1
    size: int = _BYTES + 2
    begin: tuple[int, ...] = ()
    added: Mapping[str, int] = attrs.field(factory=dict)
    digest: str = "byte-level"

    def encode(self, text: str) -> list[int]:
        """The bytes of a text."""
        return list(text.encode("utf-8"))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD."""
        return bytes(id_ for id_ in ids if id_ < _BYTES).decode("utf-8", errors="replace")
