"""Wraps a dataset so that samples have no learned token: those of the run's second step, every
other one of its third, and every other held-out one. Installed by the tests that use it.

Text that is not learned is put before the last part of a sample, so long that cutting takes the
learned text away. A step has 16 samples.
"""

from collections.abc import Generator

import attrs

import mimo_core as mimo

mimo_contract = "1.0"

STEP = 16
LONG = 300


class Unlearned:
    """The samples of a dataset, some without a learned token."""

    broken = "skip"

    def __init__(self, inner: mimo.Dataset, data: mimo.DatasetConfig, split: mimo.Split) -> None:
        import numpy as np

        order = np.random.default_rng([data.seed, 0]).permutation(len(inner))
        self._places = {int(index): place for place, index in enumerate(order)}
        self._inner = inner
        self._split = split

    def __len__(self) -> int:
        return len(self._inner)

    def __getitem__(self, index: int) -> mimo.Sample:
        sample = self._inner[index]
        step, within = divmod(self._places[index], STEP)
        train = step == 1 or (step == 2 and within % 2)
        if not (train if self._split == "train" else index % 2):
            return sample
        *before, last = sample.content
        return attrs.evolve(sample, content=(*before, mimo.Text(text="?" * LONG), last))


@mimo.hookimpl(wrapper=True)
def build_dataset(data: mimo.DatasetConfig, split: mimo.Split) -> Generator:
    return Unlearned((yield), data, split)
