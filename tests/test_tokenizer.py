"""Byte-level ids and placeholders."""

from __future__ import annotations

import pytest

from mimo_core.errors import RecipeError
from mimo_core.tokenizer import Tokenizer

TOKENIZER = Tokenizer.byte_level(["<image>", "<sound>"])


def test_ids_are_bytes_then_specials_then_placeholders_in_order():
    assert (TOKENIZER.pad, TOKENIZER.end, TOKENIZER.size) == (256, 257, 260)
    assert TOKENIZER.placeholder_id("<image>") == 258
    assert TOKENIZER.placeholder_id("<sound>") == 259
    assert Tokenizer.byte_level([]).size == 258


@pytest.mark.parametrize("text", ["", "seven", "größe ⚙", "a <image> b", "\x00\n"])
def test_text_comes_back_and_makes_no_special_id(text):
    ids = TOKENIZER.encode(text)
    assert ids == list(text.encode())
    assert TOKENIZER.decode(ids) == text


def test_specials_are_dropped_and_broken_bytes_replaced():
    assert TOKENIZER.decode([258, 104, 105, 257, 256, 259]) == "hi"
    assert TOKENIZER.decode([0xC3]) == "\ufffd"


def test_a_placeholder_outside_the_vocabulary_is_refused():
    with pytest.raises(RecipeError, match="'<video>' is not in the vocabulary; it has '<image>'"):
        TOKENIZER.placeholder_id("<video>")


def test_a_placeholder_given_twice_is_refused():
    with pytest.raises(RecipeError, match="'<image>' is given 2 times"):
        Tokenizer.byte_level(["<image>", "<image>"])
