"""The options of a recipe's ``data`` section with ``plugin: digits``."""

from __future__ import annotations

from typing import Any

import attrs

ORIGINAL_SIDE = 8
"""Pixels on a side of scikit-learn's pictures."""

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
"""The captions, by digit."""


def _side(_options: Options, _field: attrs.Attribute[int], value: int) -> None:
    if value < ORIGINAL_SIDE:
        raise ValueError(
            f"digits option size={value}: a picture has {ORIGINAL_SIDE} pixels a side and is "
            f"only enlarged; give {ORIGINAL_SIDE} or more"
        )


def _shift(_options: Options, _field: attrs.Attribute[float], value: float) -> None:
    if not 0 <= value <= ORIGINAL_SIDE / 2:
        raise ValueError(
            f"digits option shift={value}: expected original pixels from 0 (no shift) to "
            f"{ORIGINAL_SIDE // 2} (half the picture)"
        )


def _share(_options: Options, _field: attrs.Attribute[float], value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(
            f"digits option held_out={value}: expected a share between 0 and 1, both excluded, "
            "so that neither split is empty"
        )


@attrs.frozen(kw_only=True)
class Options:
    """What the pictures look like and how they are divided."""

    size: int = attrs.field(default=32, validator=_side)
    """Side of the pictures given out, in pixels; the 8x8 originals are enlarged bilinearly."""
    shift: float = attrs.field(default=0.5, validator=_shift)
    """Training only: each picture is moved by up to this many original pixels, both ways."""
    held_out: float = attrs.field(default=0.2, validator=_share)
    """Share of the digits in the validation split. Which ones depends on nothing else, so that
    runs with different seeds compare."""
    shuffle_pictures: bool = False
    """Test of honesty: every caption gets the picture of another sample of its split. A model
    that answers rightly all the same does not look at the pictures."""


def options_of(value: Any) -> Options:
    """The options that a recipe gave, or the defaults if it gave none."""
    return Options() if value is None else value
