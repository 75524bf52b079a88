"""Small tokenizers of every kind that the field uses, as ``save_pretrained`` lays them out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import (
    AddedToken,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CAPTIONS = [
    "a red square on a table",
    "two red squares, größer than a table ⚙",
    "A Blue Circle, 1999",
    "  indented\n\n\ttext",
]
SPECIALS = ["<unk>", "<s>", "</s>", "<pad>"]
BYTES = [f"<0x{number:02X}>" for number in range(256)]
_ALPHABET = pre_tokenizers.ByteLevel.alphabet()
Made = tuple[tokenizers.Tokenizer, dict[str, Any]]
"""A backend, and what ``tokenizer_config.json`` says."""
_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "unk_token": "<unk>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "pad_token": "<pad>",
}
_BEGIN = processors.TemplateProcessing(
    single="<s> $A", special_tokens=[("<s>", SPECIALS.index("<s>"))]
)


def byte_level(*, prefix: bool = False, normalizer: Any = None, whole: bool = True) -> Made:
    """GPT-2's kind; ``whole``: every byte has a token."""
    backend = tokenizers.Tokenizer(models.BPE())
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    backend.decoder = decoders.ByteLevel()
    _train(backend, alphabet=_ALPHABET if whole else [])
    return backend, _CONFIG


def _train(backend: tokenizers.Tokenizer, alphabet: list[str], **options: Any) -> None:
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[*SPECIALS, *options.pop("specials", [])],
        initial_alphabet=alphabet,
        show_progress=False,
        **options,
    )
    backend.train_from_iterator(CAPTIONS * 3, trainer)
    backend.post_processor = _BEGIN


def _pieces_decoder(*, strip: bool) -> Any:
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)] if strip else parts)


def pieces_bpe(scheme: str, *, special_bytes: bool = False, fallback: bool = True) -> Made:
    """Llama's kind: merges over characters, ``▁`` for a blank, bytes for what is unknown.

    ``scheme``: ``always``, ``first`` and ``never`` of Metaspace, or ``legacy``: by normalizers.
    """
    backend = tokenizers.Tokenizer(
        models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=fallback)
    )
    if scheme == "legacy":
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    backend.decoder = _pieces_decoder(strip=scheme != "never")
    _train(backend, alphabet=["▁"], specials=BYTES if fallback else [], max_token_length=8)
    if fallback and not special_bytes:
        # The trainer has made the bytes special; as a rule they are plain pieces of the model.
        backend = _edited(backend, lambda token: token["content"] not in BYTES)
    return backend, _CONFIG


def _edited(
    backend: tokenizers.Tokenizer, keep: Callable[[dict[str, Any]], bool]
) -> tokenizers.Tokenizer:
    content = json.loads(backend.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if keep(token)]
    return tokenizers.Tokenizer.from_str(json.dumps(content))


def unigram(scheme: str, *, fallback: bool = True) -> Made:
    """T5's kind."""
    words = ["▁", "▁a", "▁red", "square", "s", "▁table", "<", "/", ">", "bl", "ue", "0", "9"]
    letters = sorted({char for char in "".join(CAPTIONS) if char.isalnum()} - {*words})
    vocabulary = [*SPECIALS, *(BYTES if fallback else []), *words, *letters]
    model = models.Unigram(
        [(piece, -float(place)) for place, piece in enumerate(vocabulary)],
        unk_id=0,
        byte_fallback=fallback,
    )
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    backend.decoder = (
        _pieces_decoder(strip=scheme != "never")
        if fallback
        else decoders.Metaspace(prepend_scheme=scheme)
    )
    backend.add_special_tokens(SPECIALS)
    backend.post_processor = _BEGIN
    return backend, _CONFIG


def word_pieces() -> Made:
    """BERT's kind, lower-casing."""
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="<unk>"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=SPECIALS, show_progress=False
    )
    backend.train_from_iterator(CAPTIONS * 3, trainer)
    return backend, _CONFIG


def words() -> Made:
    """Whole words between blanks."""
    vocabulary = {word: i for i, word in enumerate([*SPECIALS, "a", "red", "square"])}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(SPECIALS)
    return backend, _CONFIG


def end_of_word() -> Made:
    """CLIP's kind: ``</w>`` ends a word."""
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.BPEDecoder("</w>")
    _train(backend, alphabet=[], end_of_word_suffix="</w>")
    return backend, _CONFIG


def with_tokens(*tokens: AddedToken) -> Made:
    backend, config = pieces_bpe("first")
    backend.add_tokens(list(tokens))
    return backend, config


LOSSLESS: dict[str, Callable[[], Made]] = {
    "byte-level": byte_level,
    "byte-level-prefix": lambda: byte_level(prefix=True),
    "bpe-always": lambda: pieces_bpe("always"),
    "bpe-first": lambda: pieces_bpe("first"),
    "bpe-never": lambda: pieces_bpe("never"),
    "bpe-legacy": lambda: pieces_bpe("legacy"),
    "bpe-special-bytes": lambda: pieces_bpe("first", special_bytes=True),
    "unigram-always": lambda: unigram("always"),
    "unigram-first": lambda: unigram("first"),
    "unigram-never": lambda: unigram("never"),
    "added": lambda: with_tokens(AddedToken("<tool>"), AddedToken("red sq", normalized=False)),
    "added-special": lambda: with_tokens(AddedToken("<tool>", special=True, lstrip=True)),
}
"""Tokenizers whose text comes back, piece by piece."""

LOSSY: dict[str, tuple[Callable[[], Made], str]] = {
    "byte-level-nfc": (
        lambda: byte_level(normalizer=normalizers.NFC()),
        "characters of several code points ('e\\u0301' comes back as '\\xe9')",
    ),
    "byte-level-lower": (
        lambda: byte_level(normalizer=normalizers.Lowercase()),
        "capital letters ('Ab' comes back as 'ab')",
    ),
    "byte-level-part": (lambda: byte_level(whole=False), "other scripts"),
    "byte-level-strip": (
        lambda: byte_level(normalizer=normalizers.Strip()),
        "blanks at the start or the end of a text (' a' comes back as 'a')",
    ),
    "bpe-no-fallback": (lambda: pieces_bpe("first", fallback=False), "other scripts"),
    "unigram-no-fallback": (lambda: unigram("first", fallback=False), "line breaks and tabs ("),
    "word-pieces": (word_pieces, "capital letters ("),
    "words": (words, "several blanks"),
    "end-of-word": (end_of_word, "pieces of a text that are encoded one by one"),
    "added-strips": (
        lambda: with_tokens(AddedToken("<tool>", lstrip=True, rstrip=True)),
        "blanks beside '<tool>' ('a <tool> b' comes back as 'a<tool>b')",
    ),
}
"""Tokenizers that lose some text, and what the report says."""


def save(made: Made, folder: Path, **config: Any) -> Path:
    """The directory that ``tokenizer.path`` of a recipe names."""
    backend, said = made
    folder.mkdir(exist_ok=True, parents=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**said, **config}))
    return folder
