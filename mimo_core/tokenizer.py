"""The byte-level tokenizer: the owner of placeholders, who turns them into ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from mimo_core.errors import RecipeError

_BYTES = 256


@attrs.frozen(kw_only=True)
class Tokenizer:
    """Ids: the 256 bytes of UTF-8, padding, end of text, then one for each placeholder.

    Text never makes a special id: a text that holds ``<image>`` is seven bytes.
    """

    placeholders: tuple[str, ...] = ()
    """Symbolic names in the order of their ids."""
    pad: int = _BYTES
    end: int = _BYTES + 1
    begin: tuple[int, ...] = ()
    """Ids before every sample."""

    @classmethod
    def byte_level(cls, placeholders: Sequence[str]) -> Tokenizer:
        """A tokenizer with these placeholders.

        Raises:
            RecipeError: A placeholder is given twice.
        """
        for symbol in placeholders:
            if placeholders.count(symbol) > 1:
                raise RecipeError(
                    f"placeholder {symbol!r} is given {placeholders.count(symbol)} times to the "
                    f"tokenizer: {', '.join(placeholders)}; each stands for one module"
                )
        return cls(placeholders=tuple(placeholders))

    @property
    def size(self) -> int:
        """Number of ids: the vocabulary that the language model needs."""
        return self.end + 1 + len(self.placeholders)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without an end."""
        return list(text.encode("utf-8"))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; specials are dropped, bytes that are no UTF-8 become U+FFFD."""
        return bytes(i for i in ids if 0 <= i < _BYTES).decode("utf-8", errors="replace")

    def placeholder_id(self, symbol: str) -> int:
        """The id that stands where rows of an encoder go.

        Raises:
            RecipeError: No module of the graph has this placeholder.
        """
        if symbol not in self.placeholders:
            raise RecipeError(
                f"placeholder {symbol!r} is not in the vocabulary; "
                f"it has {', '.join(map(repr, self.placeholders)) or 'none'}"
            )
        return self.end + 1 + self.placeholders.index(symbol)
