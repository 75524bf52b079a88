"""Bytes as tokens: a vocabulary that needs no file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from mimo_core.errors import SampleError

_BYTES = 256


@attrs.frozen(kw_only=True)
class ByteLevel:
    """Ids: the 256 bytes of UTF-8, padding, end of text."""

    pad: int = _BYTES
    end: int = _BYTES + 1
    size: int = _BYTES + 2
    begin: tuple[int, ...] = ()
    added: Mapping[str, int] = attrs.field(factory=dict)
    marks: Mapping[str, int] = attrs.field(factory=dict)
    digest: str = "byte-level"
    losses: tuple[str, ...] = ()

    def encode(self, text: str, *, start: bool = False) -> list[int]:
        """The bytes of a text.

        Raises:
            SampleError: It holds half a surrogate pair, which UTF-8 cannot write.
        """
        try:
            return list(text.encode("utf-8"))
        except UnicodeEncodeError as error:
            place = ascii(text[error.start : error.start + 20])
            raise SampleError(
                f"text cannot be written as UTF-8 at {place}: {error}",
                code="sample.no-tokens",
                text=place,
            ) from error

    def decode(self, ids: Sequence[int], *, start: bool = False) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD."""
        return bytes(id_ for id_ in ids if id_ < _BYTES).decode("utf-8", errors="replace")
