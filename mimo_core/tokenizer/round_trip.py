"""What a vocabulary does not give back: texts that come out otherwise than they went in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mimo_core.errors import SampleError

_PROBES: dict[str, tuple[tuple[str, ...], ...]] = {
    "letters and digits": (("abc xyz 0189",),),
    "capital letters": (("Ab",), ("XYZ",)),
    "blanks at the start or the end of a text": ((" a",), ("a ",), ("  a  ",)),
    "several blanks": (("a  b",), ("a    b",)),
    "line breaks and tabs": (("a\nb",), ("a\n\n b",), ("a\tb",), ("\n",), ("a\r\nb",)),
    "punctuation": (("a, b. c! d? (e) [f] {g} 'h' \"i\" n't 's",), ("a ,b .",)),
    "accents": (("\u00e9",), ("\u00fc\u00f1",)),
    "characters of several code points": (("e\u0301",), ("\u0915\u093f",)),
    "compatibility characters": (("\ufb01 \u2460 \uff21 \u00bd",),),
    "other scripts": (("\u0436 \u4e2d\u6587 \u05d0 \u0e01 \ud55c",),),
    "emojis": (("\U0001f642 \U0001f469\u200d\U0001f52c",),),
    "control characters": (("a\x00b",), ("a\x7fb",), ("a\u200bb",), ("a\u00a0b",), ("\ufeff",)),
    "the symbol U+2581": (("a\u2581b",),),
    "every character to U+00FF": tuple((chr(code),) for code in range(256)),
    "pieces of a text that are encoded one by one": (
        *(("a", "b"), ("ab", "ab"), ("a", " b"), ("a ", "b"), (" ", " "), ("1", "2")),
        *(("a", "."), (".", "a"), ("\n", "b"), ("a", "\n"), ("a", "'s"), ("", "a")),
    ),
}
"""By what a tokenizer may lose: texts, and pieces that are encoded one after another."""


_EXAMPLES = 3
"""Losses that are shown by an example."""


class _Codec(Protocol):
    def encode(self, text: str, *, start: bool = False) -> list[int]: ...

    def decode(self, ids: Sequence[int], *, start: bool = False) -> str: ...


def losses(codec: _Codec, special: Sequence[str] = ()) -> tuple[str, ...]:
    """Kinds of text that do not come back, the first ones with an example.

    Args:
        codec: The vocabulary.
        special: Tokens beside which blanks may be lost.
    """
    probes = dict(_PROBES)
    for token in special:
        probes[f"blanks beside {token!r}"] = ((f"a {token} b",), (f"a{token}b",))
    found: list[str] = []
    for kind, texts in probes.items():
        pieces, lost = next(
            ((pieces, lost) for pieces in texts if (lost := _lost(codec, pieces)) is not None),
            ((), None),
        )
        if lost is None:
            continue
        example = f" ({' + '.join(map(ascii, pieces))} comes back as {lost})"
        found.append(kind + (example if len(found) < _EXAMPLES else ""))
    return tuple(found)


def _lost(codec: _Codec, pieces: Sequence[str]) -> str | None:
    due = "".join(pieces)
    for start in (False, True):
        try:
            ids = [
                id_
                for at, piece in enumerate(pieces)
                for id_ in codec.encode(piece, start=start and at == 0)
            ]
            text = codec.decode(ids, start=start)
        except SampleError as error:
            return f"an error: {error}"
        if text != due:
            return ascii(text)
    return None
