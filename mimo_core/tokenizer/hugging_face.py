"""A Hugging Face tokenizer directory as a vocabulary, read without transformers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import tokenizers

from mimo_core.errors import RecipeError, SampleError

_TOKENIZER = "tokenizer.json"
_CONFIGS = ("tokenizer_config.json", "special_tokens_map.json")
"""Where a role's token is named; the first that names it wins."""
_ROLES = ("eos_token", "pad_token", "unk_token")
_PATH = ("tokenizer", "directory")


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

    def encode(self, text: str) -> list[int]:
        """The ids of a text.

        A model of whole pieces (Unigram, WordLevel) that has a special token among its pieces
        would say it where the text spells it: it is left out.
        """
        # At every call, for a pickled backend forgets it.
        self.backend.encode_special_tokens = True
        try:
            ids = self.backend.encode(text, add_special_tokens=False).ids
        except Exception as error:  # tokenizers raises no other
            said = f"the tokenizer has no ids for {text[:40]!r}: {error}"
            raise SampleError(said) from error
        return [id_ for id_ in ids if id_ not in self.silent]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special tokens are dropped."""
        return str(self.backend.decode([id_ for id_ in ids if id_ not in self.silent]))


def read_hugging_face(directory: Path, placeholders: Sequence[str]) -> HuggingFace:
    """The vocabulary in a directory that ``save_pretrained`` of transformers wrote.

    Args:
        directory: Holds ``tokenizer.json``, and ``tokenizer_config.json`` or
            ``special_tokens_map.json`` with the ``eos_token``.
        placeholders: Symbols that no text may make, where the vocabulary has them.

    Raises:
        RecipeError: A file is missing or broken, or no token ends a text.
    """
    content = _read(directory)
    try:
        backend = tokenizers.Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises no narrower class
        raise _error(
            f"{directory / _TOKENIZER} cannot be read as a tokenizer: {error}; save it again"
        ) from error
    backend.no_padding()
    backend.no_truncation()
    if getattr(backend.model, "dropout", None):  # BPE: every rank must get the same ids
        backend.model.dropout = None
    roles = _roles(directory)
    ids = {role: _id_of(backend, token, path) for role, (token, path) in roles.items()}
    if "eos_token" not in ids:
        raise _error(
            f"{directory / _CONFIGS[0]} names no 'eos_token', which ends every sample; add "
            '"eos_token": "…", a token of the vocabulary'
        )
    end = ids["eos_token"]
    pad = ids.get("pad_token", end)
    added = {token.content: id_ for id_, token in backend.get_added_tokens_decoder().items()}
    own = {symbol: added[symbol] for symbol in placeholders if symbol in added}
    _make_special(backend, [*own, *(token for token, _ in roles.values())])
    begin = _begin(backend)
    _check_placeholders(own, directory, {end, pad, *begin})
    special = {id_ for id_, token in backend.get_added_tokens_decoder().items() if token.special}
    unknown = {ids["unk_token"]} if "unk_token" in ids else set()
    return HuggingFace(
        backend=backend,
        size=max(backend.get_vocab(with_added_tokens=True).values()) + 1,
        end=end,
        pad=pad,
        begin=begin,
        added=added,
        digest=hashlib.sha256(content).hexdigest(),
        silent=frozenset(special - (unknown - {end, *begin, *own.values()})),
    )


def _read(directory: Path) -> bytes:
    path = directory / _TOKENIZER
    if not directory.is_dir():
        found = "is a file, not a directory" if directory.exists() else "does not exist"
        raise _error(
            f"{directory} {found} (in full: {directory.resolve()}); give the directory that holds "
            f"{_TOKENIZER}, from the root or from the working directory"
        )
    if not path.is_file():
        raise _error(
            f"{directory} holds no {_TOKENIZER}; make it, where transformers is installed, by "
            f"AutoTokenizer.from_pretrained(…).save_pretrained({str(directory)!r})"
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise _error(f"{path} cannot be read: {error.strerror}") from error


def _roles(directory: Path) -> dict[str, tuple[str, Path]]:
    """The token that has each role of ``_ROLES``, and the file that says so."""
    roles: dict[str, tuple[str, Path]] = {}
    for path in (directory / name for name in _CONFIGS):
        if not path.is_file():
            continue
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise _error(f"{path} cannot be read as JSON: {error}; save it again") from error
        for role in _ROLES:
            value = values.get(role) if isinstance(values, dict) else None
            token = value.get("content") if isinstance(value, dict) else value
            if isinstance(token, str):
                roles.setdefault(role, (token, path))
    return roles


def _id_of(backend: tokenizers.Tokenizer, token: str, named_by: Path) -> int:
    id_: int | None = backend.token_to_id(token)
    if id_ is None:
        raise _error(
            f"{named_by} names the token {token!r}, which {named_by.parent / _TOKENIZER} does not "
            "have; name one of its tokens"
        )
    return id_


def _check_placeholders(own: Mapping[str, int], directory: Path, taken: set[int]) -> None:
    for symbol, id_ in own.items():
        if id_ in taken:
            raise _error(
                f"placeholder {symbol!r} begins, ends or pads texts of the tokenizer in "
                f"{directory}; give the module another placeholder"
            )


def _make_special(backend: tokenizers.Tokenizer, tokens: Iterable[str]) -> None:
    """These tokens, all of the vocabulary, are no longer found in text."""
    backend.add_special_tokens(
        [tokenizers.AddedToken(token, special=True, normalized=False) for token in tokens]
    )


def _begin(backend: tokenizers.Tokenizer) -> tuple[int, ...]:
    """Special ids that the post-processor puts before a text."""
    encoding: Any = backend.encode("a", add_special_tokens=True)
    count = next((at for at, flag in enumerate(encoding.special_tokens_mask) if not flag), 0)
    return tuple(encoding.ids[:count])


def _error(said: str) -> RecipeError:
    return RecipeError(said, _PATH)
