"""Random pixels at the price of copying memory."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

BLOCK = 1_048_573
"""Random bytes that all images are cut from: a prime, so that the rows of no image repeat."""


def pixels(
    seed: int, offset: int, height: int, width: int, _generator: np.random.Generator | None = None
) -> np.ndarray:
    """An image as uint8 ``[height, width, 3]`` of values 1 to 255.

    It repeats what follows ``offset`` in the block of the seed, as often as it takes.
    """
    import numpy as np

    size = height * width * 3
    return np.resize(_block_twice(seed)[offset : offset + min(size, BLOCK)], (height, width, 3))


@lru_cache(maxsize=1)
def _block_twice(seed: int) -> np.ndarray:
    """The block ``[2 * BLOCK]``, drawn once in a process; twice, so that it can begin anywhere."""
    import numpy as np

    block = np.random.default_rng(seed).integers(1, 256, size=BLOCK, dtype=np.uint8)
    return np.concatenate([block, block])
