"""Text from elsewhere, as a terminal may show it."""

from __future__ import annotations

import unicodedata

_KEPT = frozenset("\n\t")
_BIDIRECTIONAL = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
_ESCAPED = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode categories: control characters, lone surrogates, separators of lines and paragraphs."""


def printable(text: str) -> str:
    """Escape what a terminal would act on: ``\\x1b`` is shown as these four characters.

    Line feeds and tabs stay. Characters that change the direction of the text are escaped too.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if _is_safe(character) else _escape(character) for character in text)


def _is_safe(character: str) -> bool:
    if character in _KEPT:
        return True
    return unicodedata.category(character) not in _ESCAPED and character not in _BIDIRECTIONAL


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
