"""A Hugging Face tokenizer directory as a vocabulary, read without transformers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import tokenizers

from mimo_core.errors import SampleError
from mimo_core.tokenizer.files import (
    CONFIG,
    DAMAGED,
    TOKENIZER,
    Named,
    error,
    named_tokens,
    read_content,
)
from mimo_core.tokenizer.joints import BLANKS, COMPONENTS, SYMBOL, remove_prefix
from mimo_core.tokenizer.pieces import alphabet, byte_pieces, marks
from mimo_core.tokenizer.round_trip import losses

PLACEHOLDER_TAKEN = "tokenizer.placeholder-taken"
_MOST_STRIPPING = 4
"""Tokens of the vocabulary whose surroundings are probed for lost blanks."""


@attrs.frozen(kw_only=True)
class HuggingFace:
    """The vocabulary of a ``tokenizer.json``."""

    backend: tokenizers.Tokenizer
    size: int
    """One more than the largest id, whether or not all below are in use."""
    end: int
    pad: int
    begin: tuple[int, ...]
    added: Mapping[str, int]
    digest: str
    silent: frozenset[int]
    """Ids that no text makes."""
    dropped: frozenset[int]
    """Ids that have no text."""
    unspelled: Mapping[int, str]
    """Ids that text makes, but not by spelling their names: pieces that stand for a byte or for
    what is unknown."""
    marks: Mapping[str, int] = attrs.field(factory=dict)
    symbol: tuple[int, ...] = ()
    """Bytes of the symbol for a blank, where its own piece would come back as a blank."""
    prefix: str = ""
    """Stands before the first text of a sample."""
    losses: tuple[str, ...] = ()

    def encode(self, text: str, *, start: bool = False) -> list[int]:
        """The ids of a text that continues another; with ``start``, of one that starts a sample.

        Raises:
            SampleError: The tokenizer has no ids for it.
        """
        # At every call, because a pickled backend loses the setting.
        self.backend.encode_special_tokens = True
        text = self.prefix + text if start and text else text
        if not self.symbol or SYMBOL not in text:
            return self._encode(text)
        first, *others = text.split(SYMBOL)
        ids = self._encode(first)
        for part in others:
            ids = [*ids, *self.symbol, *self._encode(part)]
        return ids

    def _encode(self, text: str) -> list[int]:
        try:
            encoding = self.backend.encode(text, add_special_tokens=False)
        except Exception as error:  # tokenizers raises no other
            said = f"the tokenizer has no ids for {text[:40]!r}: {error}"
            raise SampleError(said, code="sample.no-tokens", text=text[:40]) from error
        ids: list[int] = encoding.ids
        cuts = self._cuts(text, ids, encoding) if self._reserved(ids) else []
        if not cuts:
            return ids
        # Cut inside, the spelled symbol is ordinary characters.
        bounds = [0, *cuts, len(text)]
        parts = [text[first:last] for first, last in pairwise(bounds)]
        return [id_ for part in parts for id_ in self._encode(part)]

    def _reserved(self, ids: Sequence[int]) -> bool:
        return not self.silent.isdisjoint(ids) or not self.unspelled.keys().isdisjoint(ids)

    def _cuts(self, text: str, ids: Sequence[int], encoding: tokenizers.Encoding) -> list[int]:
        """Places inside the symbols of reserved tokens that the text spells."""
        cuts = []
        for id_, (first, last) in zip(ids, encoding.offsets, strict=True):
            whole = last - first < 2
            if id_ not in self.silent and (whole or self.unspelled.get(id_) != text[first:last]):
                continue
            if whole:
                raise SampleError(
                    f"the tokenizer has no ids for {text[first:last]!r} in {text[:40]!r} but the "
                    f"special token {self.backend.id_to_token(id_)!r}",
                    code="sample.no-tokens",
                    text=text[first:last],
                    token=self.backend.id_to_token(id_),
                )
            cuts.append(first + 1)
        return cuts

    def decode(self, ids: Sequence[int], *, start: bool = False) -> str:
        """The text of ids; special tokens are dropped.

        Args:
            ids: What :meth:`encode` returned, of one text or of several in a row.
            start: The first of them was encoded with ``start``.
        """
        kept = [id_ for id_ in ids if id_ not in self.dropped]
        text = str(self.backend.decode(kept, skip_special_tokens=False))
        return text[1:] if start and self.prefix and text.startswith(" ") else text


def read_hugging_face(directory: Path, placeholders: Sequence[str]) -> HuggingFace:
    """The vocabulary in a directory that ``save_pretrained`` of transformers wrote.

    Args:
        directory: Holds ``tokenizer.json``, and ``tokenizer_config.json`` or
            ``special_tokens_map.json`` with the ``eos_token``.
        placeholders: Symbols that no text may make, where the vocabulary has them.

    Raises:
        RecipeError: A file is missing or broken, two files disagree, no token ends a text, or a
            placeholder is an ordinary piece of text.
    """
    content = read_content(directory)
    try:
        backend = tokenizers.Tokenizer.from_buffer(content)
    except Exception as wrong:  # the library raises no narrower class
        raise error(
            f"{directory / TOKENIZER} cannot be read as a tokenizer: {wrong}; save it again",
            DAMAGED,
            file=str(directory / TOKENIZER),
        ) from wrong
    backend.no_padding()
    backend.no_truncation()
    if getattr(backend.model, "dropout", None):  # BPE: every rank must get the same ids
        backend.model.dropout = None
    named = named_tokens(directory)
    extended = _add_named(backend, named)
    ids = {role: _id_of(backend, token, path) for role, (token, path) in named.roles.items()}
    if "eos_token" not in ids:
        raise error(
            f"{directory / CONFIG} names no 'eos_token', which ends every sample; add "
            '"eos_token": "…", a token of the vocabulary',
            "tokenizer.no-end",
            file=str(directory / CONFIG),
        )
    end = ids["eos_token"]
    pad = ids.get("pad_token", end)
    whole = json.loads(content)
    prefix = _prefix(backend, whole)
    own = _own(backend, placeholders, directory)
    _make_special(backend, [*own, *(token for token, _ in named.roles.values())])
    begin = _begin(backend, named, directory)
    _check_placeholders(own, directory, {end, pad, *begin})
    decoder = backend.get_added_tokens_decoder()
    reserved = {end, *begin, *own.values()}
    bytes_ = byte_pieces(backend, whole)
    special = {id_ for id_, token in decoder.items() if token.special}
    special -= (bytes_.keys() | alphabet(backend, whole)) - reserved
    unknown = {ids["unk_token"]} if "unk_token" in ids else set()
    made = HuggingFace(
        backend=backend,
        size=max(backend.get_vocab(with_added_tokens=True).values()) + 1,
        end=end,
        pad=pad,
        begin=begin,
        added=own | {token.content: id_ for id_, token in decoder.items()},
        digest=hashlib.sha256(content + extended).hexdigest(),
        silent=frozenset(special - (unknown - reserved)),
        dropped=frozenset(special),
        marks=marks(backend, {*decoder, *bytes_}),
        unspelled=bytes_ | {id_: named.roles["unk_token"][0] for id_ in unknown},
        prefix=prefix,
    )
    made = attrs.evolve(made, symbol=_symbol(made, bytes_))
    stripping = [
        token.content
        for token in decoder.values()
        if not token.special and (token.lstrip or token.rstrip)
    ]
    return attrs.evolve(made, losses=losses(made, stripping[:_MOST_STRIPPING]))


def _add_named(backend: tokenizers.Tokenizer, named: Named) -> bytes:
    """Add what stands in other files only, as transformers does.

    Returns:
        What the vocabulary depends on besides ``tokenizer.json``.
    """
    before = backend.get_vocab_size(with_added_tokens=True)
    for token, id_, path in named.added:
        present = backend.token_to_id(token.content)
        if present is None:
            backend.add_tokens([token])
            present = backend.token_to_id(token.content)
        if id_ is not None and present != id_:
            raise error(
                f"{path} gives the token {token.content!r} the id {id_}, but it is {present} by "
                f"{path.parent / TOKENIZER}; save the tokenizer again so that the files agree",
                "tokenizer.files-disagree",
                file=str(path),
                token=token.content,
            )
    if backend.get_vocab_size(with_added_tokens=True) == before:
        return b""
    rows = [
        [token.content, token.special, token.lstrip, token.rstrip, token.normalized]
        for token, _, _ in named.added
    ]
    return json.dumps(rows).encode()


def _id_of(backend: tokenizers.Tokenizer, token: str, named_by: Path) -> int:
    id_: int | None = backend.token_to_id(token)
    if id_ is None:
        raise error(
            f"{named_by} names the token {token!r}, which {named_by.parent / TOKENIZER} does not "
            "have; name one of its tokens",
            "tokenizer.unknown-token",
            file=str(named_by),
            token=token,
        )
    return id_


def _prefix(backend: tokenizers.Tokenizer, content: Mapping[str, Any]) -> str:
    """Change the backend for the inside of texts; return what the first text then needs before
    it. A backend that cannot be changed so stays as it is."""
    samples = ("a", "The", "9", "\u4e2d")
    due = [backend.encode(text, add_special_tokens=False).ids for text in samples]
    before = {name: getattr(backend, name) for name in COMPONENTS}
    if not remove_prefix(backend, content):
        return ""
    for prefix in BLANKS:
        got = [backend.encode(prefix + text, add_special_tokens=False).ids for text in samples]
        if got == due:
            return prefix
    for name, component in before.items():
        setattr(backend, name, component)
    return ""


def _own(
    backend: tokenizers.Tokenizer, placeholders: Sequence[str], directory: Path
) -> dict[str, int]:
    """Ids of the placeholders that the vocabulary has."""
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    own: dict[str, int] = {}
    for symbol in placeholders:
        id_ = backend.token_to_id(symbol)
        if id_ is None:
            continue
        if symbol not in added and id_ in backend.encode(symbol, add_special_tokens=False).ids:
            raise error(
                f"placeholder {symbol!r} is a piece that the tokenizer in {directory} makes of "
                "ordinary text; give the module another placeholder, or list the symbol among "
                f"the added_tokens of {TOKENIZER}",
                PLACEHOLDER_TAKEN,
                placeholder=symbol,
            )
        own[symbol] = id_
    return own


def _check_placeholders(own: Mapping[str, int], directory: Path, taken: set[int]) -> None:
    for symbol, id_ in own.items():
        if id_ in taken:
            raise error(
                f"placeholder {symbol!r} begins, ends or pads texts of the tokenizer in "
                f"{directory}; give the module another placeholder",
                PLACEHOLDER_TAKEN,
                placeholder=symbol,
            )


def _make_special(backend: tokenizers.Tokenizer, tokens: Iterable[str]) -> None:
    """These tokens, all of the vocabulary, are no longer found in text."""
    backend.add_special_tokens(
        [tokenizers.AddedToken(token, special=True, normalized=False) for token in tokens]
    )


def _symbol(vocabulary: HuggingFace, bytes_: Mapping[int, str]) -> tuple[int, ...]:
    """Ids of the bytes of the symbol for a blank, where it needs them to come back."""
    ids = {piece: id_ for id_, piece in bytes_.items()}
    pieces = [f"<0x{byte:02X}>" for byte in SYMBOL.encode()]
    lost = vocabulary.decode(vocabulary.encode(SYMBOL)) != SYMBOL
    return tuple(ids[piece] for piece in pieces) if lost and ids.keys() >= {*pieces} else ()


def _begin(backend: tokenizers.Tokenizer, named: Named, directory: Path) -> tuple[int, ...]:
    """Special ids before a text: as the configuration says, else as the post-processor does."""
    if named.adds_begin is not None:
        if not named.adds_begin or named.begin_token is None:
            return ()
        return (_id_of(backend, named.begin_token, directory / CONFIG),)
    for text in ("a", " ", "0", "\u4e2d", *backend.get_vocab(with_added_tokens=False)):
        encoding: Any = backend.encode(text, add_special_tokens=True)
        mask: list[int] = encoding.special_tokens_mask
        if 0 in mask:
            return tuple(encoding.ids[: mask.index(0)])
    raise error(
        f"{directory / TOKENIZER} makes no token of any text; save it again",
        DAMAGED,
        file=str(directory / TOKENIZER),
    )
