"""What size each picture of a sample is resized to. Pure Python: every rank counts alike.

In dynamic resolution a picture becomes a grid of whole units (a unit is one sequence position: a
patch, or 2x2 patches with pixel shuffle):

1. Its own grid: the largest of its aspect ratio that is neither larger than the picture nor than
   ``max_positions``. Where sides do not come out whole, of the whole numbers just below and above
   each side that keep to this, those of the closest aspect ratio are taken.
2. One smaller than ``min_positions`` is enlarged to it, by the same rule.
3. Where the pictures of a sample together take more than ``sample_positions``, the areas of all
   grids are scaled by one common factor, the largest (to 2**-16) at which they fit. None goes
   below its minimum.

A side is never less than one unit, nor longer than the budget: a very long picture is squeezed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from mimo_core import MimoError
from mimo_plugin_radio.options import Options

Size = tuple[int, int]
"""Height and width."""


def picture_sizes(shapes: Sequence[tuple[int, ...]], options: Options) -> list[Size]:
    """Pixels that each picture of one sample is resized to, in order.

    Args:
        shapes: ``(height, width)`` of all pictures of the sample, from their metadata.

    Raises:
        MimoError: dynamic resolution, and a shape is no ``(height, width)``, or even the smallest
            grids of the pictures together take more than ``sample_positions``.
    """
    if options.resolution == "fixed":
        return [(options.image_side, options.image_side)] * len(shapes)
    grids = _sample_grids(tuple(_checked(shape) for shape in shapes), options)
    return [(rows * options.unit, columns * options.unit) for rows, columns in grids]


def _checked(shape: tuple[int, ...]) -> Size:
    if len(shape) != 2 or min(shape) < 1:
        raise MimoError(
            f"metadata of a picture says shape {tuple(shape)}: radio in dynamic resolution needs "
            "(height, width) in pixels, each 1 or more; mend it where the dataset makes its Media",
            code="sample.no-positions",
            shape=tuple(shape),
        )
    return (shape[0], shape[1])


@lru_cache(maxsize=1024)  # a rank asks several times for each sample
def _sample_grids(pictures: tuple[Size, ...], options: Options) -> list[Size]:
    """Rows and columns of units for each picture (pixels)."""
    own = [_grid(picture, options, options.most_units) for picture in pictures]
    budget = options.sample_positions
    if budget is None or _positions(own, options) <= budget:
        return own

    def scaled(factor: float) -> list[Size]:
        grids = (
            _grid(picture, options, int(factor * _units(grid)))
            for picture, grid in zip(pictures, own, strict=True)
        )
        return [min(pair, key=_units) for pair in zip(grids, own, strict=True)]

    fitting = scaled(0.0)
    if _positions(fitting, options) > budget:
        raise MimoError(
            f"the {len(pictures)} pictures of a sample take {_positions(fitting, options)} "
            f"sequence positions at the least (min_positions={options.least_positions} each, in "
            f"whole rows and columns), more than radio option sample_positions={budget}; raise it, "
            "lower min_positions, or give the sample fewer pictures",
            code="sample.no-positions",
            positions=_positions(fitting, options),
            images=len(pictures),
            sample_positions=budget,
        )
    low, high = 0.0, 1.0
    for _ in range(16):
        middle = (low + high) / 2
        grids = scaled(middle)
        if _positions(grids, options) <= budget:
            low, fitting = middle, grids
        else:
            high = middle
    return fitting


def _positions(grids: Sequence[Size], options: Options) -> int:
    return sum(_units(grid) + options.kept_tokens for grid in grids)


def _units(grid: Size) -> int:
    return grid[0] * grid[1]


def _grid(picture: Size, options: Options, limit: int) -> Size:
    """Rows and columns: at most ``limit`` units, but not fewer than the picture's minimum."""
    grid = _at_most(picture, options.unit, max(1, limit))
    if _units(grid) >= options.least_units:
        return grid
    return _at_least(picture, options.least_units)


def _at_most(picture: Size, unit: int, limit: int) -> Size:
    height, width = picture
    scale = min(1.0, math.sqrt(limit * unit**2 / (height * width)))
    rows, columns = (min(limit, max(1.0, side * scale / unit)) for side in picture)
    fitting = [
        (r, c)
        for r, c in _whole(rows, columns)
        if r * c <= limit and r <= max(1, height // unit) and c <= max(1, width // unit)
    ]
    return min(fitting, key=lambda grid: (_distortion(grid, picture), -_units(grid)))


def _at_least(picture: Size, least: int) -> Size:
    height, width = picture
    rows = min(least, max(1.0, math.sqrt(least * height / width)))
    fitting = [grid for grid in _whole(rows, least / rows) if _units(grid) >= least]
    return min(fitting, key=lambda grid: (_distortion(grid, picture), _units(grid)))


def _whole(rows: float, columns: float) -> list[Size]:
    """The whole numbers just below and above each."""
    return [
        (r, c)
        for r in (math.floor(rows), math.ceil(rows))
        for c in (math.floor(columns), math.ceil(columns))
    ]


def _distortion(grid: Size, picture: Size) -> float:
    """Factor between the two aspect ratios, 1 or more; nothing of it depends on a maths library."""
    first, second = grid[0] * picture[1], grid[1] * picture[0]
    return max(first, second) / min(first, second)
