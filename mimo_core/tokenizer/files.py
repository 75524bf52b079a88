"""The files of a Hugging Face tokenizer directory, and the tokens that they name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import tokenizers

from mimo_core.errors import RecipeError, text_of
from mimo_core.utils.regular_files import read_bytes, read_json

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
_CONFIGS = (CONFIG, "special_tokens_map.json")
"""Where a role's token is named; the first that names it wins."""
_ADDED = "added_tokens.json"
_ROLES = ("eos_token", "pad_token", "unk_token")
_OTHERS = ("bos_token", "sep_token", "cls_token", "mask_token")
_EXTRA = ("extra_special_tokens", "additional_special_tokens")
_MOST_BYTES = 512 << 20
_PATH = ("tokenizer", "path")
DAMAGED = "tokenizer.damaged"


@attrs.frozen(kw_only=True)
class Named:
    """What the files beside ``tokenizer.json`` say of tokens."""

    roles: Mapping[str, tuple[str, Path]]
    """The token that has each role of ``_ROLES``, and the file that says so."""
    added: tuple[tuple[tokenizers.AddedToken, int | None, Path], ...]
    """Tokens that are added where the vocabulary does not have them, in this order; the id that
    the file gives them, and the file."""
    adds_begin: bool | None
    """Whether ``bos_token`` stands before a text; ``None``: the post-processor decides."""
    begin_token: str | None


def error(message: str, code: str, **values: Any) -> RecipeError:
    """An error of the recipe's tokenizer."""
    return RecipeError(message, _PATH, code=code, **values)


def read_content(directory: Path) -> bytes:
    """What ``tokenizer.json`` holds.

    Raises:
        RecipeError: It is missing or cannot be read.
    """
    path = directory / TOKENIZER
    if not directory.is_dir():
        found = "is a file, not a directory" if directory.exists() else "does not exist"
        raise error(
            f"{directory} {found} (in full: {os.path.abspath(directory)}); give the directory that "
            f"holds {TOKENIZER}, from the root or from the working directory",
            "tokenizer.not-found",
            directory=str(directory),
        )
    if not path.is_file():
        raise error(
            f"{directory} holds no {TOKENIZER}; make it, where transformers is installed, by "
            f"AutoTokenizer.from_pretrained(…).save_pretrained({str(directory)!r})",
            "tokenizer.not-found",
            directory=str(directory),
        )
    try:
        return read_bytes(path, _MOST_BYTES)
    except OSError as wrong:
        message = f"{path} cannot be read: {wrong.strerror}"
        raise error(message, "tokenizer.unreadable", file=str(path)) from wrong


def named_tokens(directory: Path) -> Named:
    """Tokens of the other files of the directory.

    Raises:
        RecipeError: A file cannot be read, or holds an entry that is no token.
    """
    configs = {path: _json(path) for path in (directory / name for name in _CONFIGS)}
    roles: dict[str, tuple[str, Path]] = {}
    for path, values in configs.items():
        for role in (*_ROLES, *_OTHERS):
            token = _content(values.get(role))
            if token is not None:
                roles.setdefault(role, (token, path))
    main = configs[directory / CONFIG]
    adds = [main[key] for key in ("add_bos_token", "add_eos_token") if key in main]
    return Named(
        roles={role: roles[role] for role in _ROLES if role in roles},
        added=(
            *_numbered(directory, main),
            *(
                (_special(roles[role][0]), None, roles[role][1])
                for role in _OTHERS
                if role in roles
            ),
            *(
                (_special(token), None, path)
                for path, values in configs.items()
                for token in _extra(values, path)
            ),
        ),
        adds_begin=bool(main.get("add_bos_token")) if adds else None,
        begin_token=roles["bos_token"][0] if "bos_token" in roles else None,
    )


def _numbered(
    directory: Path, main: Mapping[str, Any]
) -> Iterator[tuple[tokenizers.AddedToken, int, Path]]:
    """Added tokens with their ids, by id."""
    path = directory / CONFIG
    entries = main.get("added_tokens_decoder") or {}
    if not isinstance(entries, dict):
        message = f"{path} has an added_tokens_decoder that is no object; save it again"
        raise error(message, DAMAGED, file=str(path))
    found: dict[int, tuple[tokenizers.AddedToken, Path]] = {}
    for key, entry in entries.items():
        content = _content(entry)
        if content is None or not str(key).isdecimal():
            raise error(
                f"{path}: added_tokens_decoder.{key} is {entry!r}, not a token by its id; save the "
                "tokenizer again",
                DAMAGED,
                file=str(path),
            )
        flags = {
            name: bool(entry[name])
            for name in ("lstrip", "rstrip", "single_word", "normalized", "special")
            if isinstance(entry, dict) and name in entry
        }
        found[int(key)] = (tokenizers.AddedToken(content, **flags), path)
    path = directory / _ADDED
    for content, id_ in _json(path).items():
        if type(id_) is not int:
            message = f"{path} gives {content!r} the id {id_!r}; save the tokenizer again"
            raise error(message, DAMAGED, file=str(path))
        if id_ not in found:
            found[id_] = (tokenizers.AddedToken(content, normalized=False), path)
    for id_, (token, named_by) in sorted(found.items(), key=lambda item: item[0]):
        yield token, id_, named_by


def _extra(values: Mapping[str, Any], path: Path) -> Iterator[str]:
    for key in _EXTRA:
        listed = values.get(key) or []
        for entry in listed.values() if isinstance(listed, dict) else listed:
            token = _content(entry)
            if token is None:
                message = f"{path}: {key} has {entry!r}, which is no token; save it again"
                raise error(message, DAMAGED, file=str(path))
            yield token


def _special(content: str) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(content, special=True, normalized=False)


def _content(value: Any) -> str | None:
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None


def _json(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    try:
        values = read_json(path)
    except (OSError, ValueError) as wrong:
        message = f"{path} cannot be read as JSON: {text_of(wrong)}; save it again"
        raise error(message, DAMAGED, file=str(path)) from wrong
    return values if isinstance(values, dict) else {}
