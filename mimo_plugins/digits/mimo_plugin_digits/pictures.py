"""The digits themselves: labels, and pictures decoded one at a time."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from mimo_plugin_digits.options import ORIGINAL_SIDE

_BRIGHTEST = 16
"""scikit-learn's pixels run from 0 (paper) to 16 (ink)."""


@lru_cache(maxsize=1)
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """(pictures ``[1797, 8, 8]``, labels ``[1797]``); scikit-learn keeps both in one file.

    The file is read where the package is installed, as ``load_digits`` does: importing
    scikit-learn takes seconds of every rank's start.
    """
    package = find_spec("sklearn")
    assert package is not None and package.origin is not None
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(path, delimiter=",")
    return table[:, :-1].reshape(-1, ORIGINAL_SIDE, ORIGINAL_SIDE), table[:, -1].astype(int)


def labels() -> list[int]:
    """The digit that each picture shows, in scikit-learn's order."""
    return [int(label) for label in _digits()[1]]


def originals_digest() -> bytes:
    """Hash of all pictures and labels."""
    content = hashlib.sha256()
    for array in _digits():
        content.update(array.astype(np.uint8).tobytes())
    return content.digest()


def picture(
    original: int, size: int, shift: float, generator: np.random.Generator | None
) -> np.ndarray:
    """One digit as uint8 ``[size, size, 3]``, white on black.

    Args:
        original: Its index in scikit-learn's order.
        size: Side in pixels.
        shift: How far it is moved at most, in original pixels; the border that this uncovers is
            black.
        generator: Draws the shift; ``None`` leaves the picture in its place.
    """
    weights = _enlargement(size)
    ink = weights @ _digits()[0][original] @ weights.T
    grey = np.rint(ink * (255 / _BRIGHTEST)).astype(np.uint8)
    if generator is not None:
        reach = int(shift * size / ORIGINAL_SIDE)
        grey = _moved(grey, *generator.integers(-reach, reach, size=2, endpoint=True))
    return np.repeat(grey[:, :, None], 3, axis=2)


@lru_cache(maxsize=8)
def _enlargement(size: int) -> np.ndarray:
    """Bilinear weights ``[size, 8]`` of one direction: pixel centres aligned, borders repeated."""
    centres = (np.arange(size) + 0.5) * ORIGINAL_SIDE / size - 0.5
    centres = centres.clip(0, ORIGINAL_SIDE - 1)
    distance = np.abs(centres[:, None] - np.arange(ORIGINAL_SIDE)[None, :])
    return (1 - distance).clip(min=0)


def _moved(grey: np.ndarray, down: int, right: int) -> np.ndarray:
    """The picture ``[size, size]`` moved inside its frame."""
    size = len(grey)
    moved = np.zeros_like(grey)
    rows = slice(max(down, 0), size + min(down, 0))
    columns = slice(max(right, 0), size + min(right, 0))
    from_rows = slice(max(-down, 0), size + min(-down, 0))
    from_columns = slice(max(-right, 0), size + min(-right, 0))
    moved[rows, columns] = grey[from_rows, from_columns]
    return moved
