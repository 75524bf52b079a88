"""The tokenizer that a recipe asks for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mimo_core.errors import RecipeError
from mimo_core.tokenizer.byte_level import ByteLevel
from mimo_core.tokenizer.tokenizer import Tokenizer


def make_tokenizer(directory: str | None, placeholders: Sequence[str]) -> Tokenizer:
    """The tokenizer of a run.

    Args:
        directory: Of a Hugging Face tokenizer (``tokenizer.json`` and ``tokenizer_config.json``);
            a relative one is taken from the working directory. ``None``: bytes are tokens.
        placeholders: Symbols of the modules, in the order of their ids.

    Raises:
        RecipeError: A placeholder is given twice, or the directory holds no usable tokenizer.
    """
    for symbol in placeholders:
        if placeholders.count(symbol) > 1:
            raise RecipeError(
                f"placeholder {symbol!r} is given {placeholders.count(symbol)} times to the "
                f"tokenizer: {', '.join(placeholders)}; each stands for one module",
                code="recipe.same-placeholder",
                placeholder=symbol,
            )
    if directory is None:
        return Tokenizer.over(ByteLevel(), placeholders)
    from mimo_core.tokenizer.hugging_face import read_hugging_face

    return Tokenizer.over(read_hugging_face(Path(directory), placeholders), placeholders)
