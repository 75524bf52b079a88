"""The options of a recipe's ``data`` section with ``plugin: mock``."""

from __future__ import annotations

from typing import Any

import attrs

Range = int | tuple[int, int]
"""A number, or the smallest and the largest: each sample draws one between, both included."""


def bounds(value: Range) -> tuple[int, int]:
    """The smallest and the largest number of a range."""
    return (value, value) if isinstance(value, int) else value


def _range(name: str, least: int) -> Any:
    def check(_options: Any, _field: attrs.Attribute[Range], value: Range) -> None:
        low, high = bounds(value)
        if low > high:
            raise ValueError(
                f"mock option {name}={[low, high]}: the smallest comes first; write {[high, low]}"
            )
        if low < least:
            raise ValueError(
                f"mock option {name}={value if low == high else [low, high]}: expected a number of "
                f"at least {least}, or [smallest, largest]"
            )

    return check


def _count(_options: Options, field: attrs.Attribute[int], value: int) -> None:
    if value < 1:
        raise ValueError(f"mock option {field.name}={value}: expected 1 or more")


@attrs.frozen(kw_only=True)
class ImageOptions:
    """The images of a sample, which come before its text."""

    per_sample: Range = attrs.field(default=1, validator=_range("images.per_sample", 0))
    """Number of images; 0 makes samples of text alone."""
    height: Range = attrs.field(default=512, validator=_range("images.height", 1))
    """In pixels; drawn for each image."""
    width: Range = attrs.field(default=512, validator=_range("images.width", 1))
    """In pixels; drawn for each image."""


@attrs.frozen(kw_only=True)
class TextOptions:
    """The text of a sample, all of which is learned."""

    characters: Range = attrs.field(default=100, validator=_range("text.characters", 1))
    """Number of letters; with the byte-level tokenizer as many positions."""


@attrs.frozen(kw_only=True)
class Options:
    """How many samples there are, and how large they are."""

    samples: int = attrs.field(default=1024, validator=_count)
    """Samples of the training split."""
    validation_samples: int = attrs.field(default=16, validator=_count)
    """Samples of the validation split."""
    images: ImageOptions = attrs.field(factory=ImageOptions)
    """The images of a sample."""
    text: TextOptions = attrs.field(factory=TextOptions)
    """The text of a sample."""


def options_of(value: Any) -> Options:
    """The options that a recipe gave, or the defaults if it gave none."""
    return Options() if value is None else value
