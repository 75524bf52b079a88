"""What a recipe may say under ``modules.NAME.options``."""

from __future__ import annotations

from typing import Any

import attrs

from mimo_core import ModuleConfig


def _positive(_options: Options, field: attrs.Attribute[Any], value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError(f"mixer option {field.name}={value}: expected 1 or more")


@attrs.frozen(kw_only=True)
class Options:
    """The size of the mixer and of its pictures."""

    hidden_size: int = attrs.field(default=64, validator=_positive)
    """Width of a patch."""
    layers: int = attrs.field(default=4, validator=_positive)
    """Each mixes patches, then channels."""
    image_size: int = attrs.field(default=32, validator=_positive)
    """Side of the square, in pixels, that every picture becomes."""
    patch_size: int = attrs.field(default=8, validator=_positive)
    """Side of a patch in pixels; must divide `image_size`."""
    patch_hidden_size: int | None = attrs.field(default=None, validator=_positive)
    """Width inside the layers that mix patches; by default half of `hidden_size`."""
    channel_hidden_size: int | None = attrs.field(default=None, validator=_positive)
    """Width inside the layers that mix channels; by default four times `hidden_size`."""

    def __attrs_post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(
                f"mixer option image_size={self.image_size}: must be a multiple of "
                f"patch_size={self.patch_size}"
            )

    @property
    def patches(self) -> int:
        """Of a picture."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def patch_inner(self) -> int:
        return self.patch_hidden_size or max(1, self.hidden_size // 2)

    @property
    def channel_inner(self) -> int:
        return self.channel_hidden_size or 4 * self.hidden_size


def options_of(module: ModuleConfig) -> Options:
    """The module's options, typed."""
    assert isinstance(module.options, Options)
    return module.options
