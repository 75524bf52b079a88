"""One global order of samples, the same on every rank: a pure function of seed and position."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from mimo_core.errors import RecipeError


class ShuffledSampler:
    """Maps a position of the run (samples consumed so far) to a sample of the dataset.

    Every epoch is a permutation of the whole dataset drawn from (seed, epoch), so that a resumed
    run goes on where it was, mid-epoch, with nothing saved but the position.
    """

    def __init__(self, length: int, seed: int) -> None:
        if length < 1:
            raise RecipeError(
                "the dataset's train split has no samples; nothing to train on",
                code="data.no-samples",
                split="train",
            )
        self._length = length
        self._permutation = lru_cache(maxsize=2)(self._draw)
        self._seed = seed

    def __getitem__(self, position: int) -> int:
        epoch, place = divmod(position, self._length)
        return int(self._permutation(epoch)[place])

    def _draw(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(self._length)


class SequentialSampler:
    """The samples of an evaluation, each once; positions after the last are fillers."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __getitem__(self, position: int) -> int | None:
        return position if position < self._length else None


def augmentation_generator(seed: int, position: int) -> np.random.Generator:
    """The generator of everything random about the sample at ``position`` of the run."""
    return np.random.default_rng([seed, position, 0x0A9])
