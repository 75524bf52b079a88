"""The owner of token ids: a vocabulary of text, and the placeholders behind or within it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import attrs

from mimo_core.errors import RecipeError


class Vocabulary(Protocol):
    """Text as ids ``0 .. size - 1``. What ``encode`` gives holds no special id."""

    @property
    def size(self) -> int: ...

    @property
    def end(self) -> int: ...

    @property
    def pad(self) -> int: ...

    @property
    def begin(self) -> tuple[int, ...]: ...

    @property
    def added(self) -> Mapping[str, int]:
        """Ids of whole symbols that a placeholder may be."""

    @property
    def marks(self) -> Mapping[str, int]:
        """Ids of pieces that look like special tokens, though no file lists them as such."""

    @property
    def digest(self) -> str: ...

    @property
    def losses(self) -> tuple[str, ...]:
        """Kinds of text that do not come back as they were."""

    def encode(self, text: str, *, start: bool = False) -> list[int]:
        """The ids of a text that continues another; with ``start``, of one that starts a sample."""

    def decode(self, ids: Sequence[int], *, start: bool = False) -> str:
        """The text of ids of the vocabulary; specials are dropped."""


@attrs.frozen(kw_only=True)
class Tokenizer:
    """Text to ids and back; symbolic placeholders to the ids that stand where rows go.

    Text never makes the id of a special token or of a placeholder: a text that holds ``<image>``
    is seven characters.
    """

    vocabulary: Vocabulary
    ids: Mapping[str, int]
    """Id of each placeholder."""

    @classmethod
    def over(cls, vocabulary: Vocabulary, placeholders: Sequence[str]) -> Tokenizer:
        """A vocabulary with placeholders: those that it has keep their ids, others follow."""
        ids: dict[str, int] = {}
        following = vocabulary.size
        for symbol in placeholders:
            if symbol in vocabulary.added:
                ids[symbol] = vocabulary.added[symbol]
            else:
                ids[symbol] = following
                following += 1
        return cls(vocabulary=vocabulary, ids=ids)

    @property
    def placeholders(self) -> tuple[str, ...]:
        """Symbolic names, in the order of the graph's edges."""
        return tuple(self.ids)

    @property
    def pad(self) -> int:
        """Fills a sequence after its end."""
        return self.vocabulary.pad

    @property
    def end(self) -> int:
        """Ends every sample."""
        return self.vocabulary.end

    @property
    def begin(self) -> tuple[int, ...]:
        """Ids before every sample."""
        return self.vocabulary.begin

    @property
    def size(self) -> int:
        """Number of ids: the vocabulary that the language model needs."""
        return max(self.vocabulary.size, *(id_ + 1 for id_ in self.ids.values()), 0)

    @property
    def digest(self) -> str:
        """A hash of all that ids depend on: equal where samples make the same sequences."""
        ids = [self.vocabulary.digest, self.pad, self.end, self.begin, list(self.ids.items())]
        return hashlib.sha256(json.dumps(ids).encode()).hexdigest()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the tokenizer."""
        if not self.vocabulary.losses:
            return ()
        return (
            "tokenizer: some text does not come back from its ids as it was, so a model cannot "
            f"learn to write it: {'; '.join(self.vocabulary.losses)}",
        )

    def encode(self, text: str, *, start: bool = False) -> list[int]:
        """The ids of a text, without beginning or end.

        Unless the tokenizer has a note, ``decode(encode(a) + encode(b))`` is ``a + b``.

        Args:
            text: A whole text or a piece of one.
            start: It starts a sample. A tokenizer of SentencePiece's kind puts a blank before it
                then, as transformers does; :meth:`decode` with ``start`` takes it away.

        Raises:
            SampleError: The tokenizer has no ids for it.
        """
        return self.vocabulary.encode(text, start=start)

    def decode(self, ids: Iterable[int], *, start: bool | None = None) -> str:
        """The text of ids; specials, placeholders and ids of no token are dropped.

        Args:
            ids: Of any part of a sample.
            start: They start a sample. By default they do if they start with :attr:`begin`, where
                the tokenizer has one.
        """
        ids = list(ids)
        if start is None:
            start = bool(self.begin) and tuple(ids[: len(self.begin)]) == self.begin
        drop = set(self.ids.values())
        kept = [id_ for id_ in ids if 0 <= id_ < self.vocabulary.size and id_ not in drop]
        return self.vocabulary.decode(kept, start=start)

    def placeholder_id(self, symbol: str) -> int:
        """The id that stands where rows of an encoder go.

        Raises:
            RecipeError: No module of the graph has this placeholder.
        """
        if symbol not in self.ids:
            raise RecipeError(
                f"placeholder {symbol!r} is not in the vocabulary; "
                f"it has {', '.join(map(repr, self.ids)) or 'none'}",
                code="tokenizer.unknown-placeholder",
                placeholder=symbol,
            )
        return self.ids[symbol]
