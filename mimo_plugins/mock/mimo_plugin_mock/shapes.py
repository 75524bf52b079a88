"""Shapes of images that the plan is shown."""

from __future__ import annotations

from mimo_plugin_mock.options import ImageOptions, Range, bounds

STEPS = 16
"""From the largest length of a side to the smallest."""


def preview_shapes(images: ImageOptions) -> list[tuple[int, int]]:
    """(height, width) of the largest image, of those with one side shorter, and of the smallest.

    An encoder that keeps aspect ratios within a budget may give an image of fewer pixels more
    positions, since its sides come out in whole units: the ratios between are those shown.
    """
    _, height = bounds(images.height)
    _, width = bounds(images.width)
    shapes = [
        *((height, shorter) for shorter in _lengths(images.width)),
        *((shorter, width) for shorter in _lengths(images.height)),
        (bounds(images.height)[0], bounds(images.width)[0]),
    ]
    return list(dict.fromkeys(shapes))


def _lengths(side: Range) -> list[int]:
    """From the largest down to the smallest, in equal steps."""
    least, most = bounds(side)
    return [round(most + (least - most) * step / STEPS) for step in range(STEPS + 1)]
