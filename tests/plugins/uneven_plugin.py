"""Batches as they come: samples with none, one or several pictures of two kinds, of any size.

What is where is told by position in the run (4 samples a microbatch, 4 microbatches a step), not
by the number of the sample, so that a step can be known to have no picture of a kind at all.
Installed by the tests that use it. Where ``MIMO_TEST_OPERATIONS`` names a folder, every rank
records its operations there (``tests/deadlock_simulator``), from before its first process group.
"""

import contextlib
import functools
import gc
import os
from pathlib import Path
from typing import Any

import mimo_core as mimo

mimo_contract = "1.0"

IMAGES = (
    ((0, 1, 3, 2), (1, 0, 0, 0), (0, 0, 0, 2), (0, 0, 0, 0)),
    ((0, 0, 0, 0),) * 4,
    ((2, 0, 1, 0), (0, 3, 0, 0), (1, 1, 1, 1), (0, 0, 2, 0)),
)
"""Pictures of kind ``image`` of each sample, by step and microbatch; the second has none at all."""
DEPTHS = (
    ((1, 0, 0, 1), (0, 0, 0, 0), (2, 0, 0, 0), (1, 0, 0, 1)),
    ((0, 1, 0, 1), (1, 1, 0, 0), (0, 0, 1, 1), (1, 0, 0, 0)),
    ((0, 0, 0, 0),) * 4,
)
"""Of kind ``depth``; the third step has none. All data-parallel ranks have some in the first step's
last microbatch, and one alone in the second's: its gradients are complete before the other's."""
SAMPLES = 48

if "RANK" in os.environ and "MIMO_TEST_OPERATIONS" in os.environ:
    import order_record

    _file = Path(os.environ["MIMO_TEST_OPERATIONS"]) / os.environ["RANK"]
    _until_the_end = contextlib.ExitStack()
    _until_the_end.enter_context(order_record.recorded(_file))


class Uneven:
    """Sample ``index`` is made of its place in the run's first epoch."""

    def __init__(self, data: mimo.DatasetConfig, split: mimo.Split) -> None:
        import numpy as np

        order = np.random.default_rng([data.seed, 0]).permutation(SAMPLES)
        self._places = {int(index): place for place, index in enumerate(order)}
        self._split = split

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> mimo.Sample:
        import numpy as np

        assert gc.isenabled(), "ranks that train keep all garbage that refers to itself"
        place = self._places[index]
        step, within = divmod(place, 16)
        microbatch, sample = divmod(within, 4)
        generator = np.random.default_rng([place, 7])
        images, depths = (kind[step][microbatch][sample] for kind in (IMAGES, DEPTHS))
        text = "".join(map(chr, generator.integers(97, 123, generator.integers(3, 12))))
        return mimo.Sample(
            key=f"uneven/{self._split}/{index}",
            content=(
                mimo.Text(text="see:"),
                *(_picture("image", generator) for _ in range(images)),
                *(_picture("depth", generator) for _ in range(depths)),
                mimo.Text(text=text, is_target=True),
            ),
        )


def _picture(kind: str, generator: Any) -> mimo.MediaItem:
    shape = tuple(int(side) for side in generator.integers(4, 24, 2))
    return mimo.MediaItem(
        modality=kind,
        shape=shape,
        load=functools.partial(_pixels, int(generator.integers(99)), shape),
    )


def _pixels(seed: int, shape: tuple[int, ...], _augment: Any) -> Any:
    import numpy as np

    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


@mimo.hookimpl
def build_dataset(data: mimo.DatasetConfig, split: mimo.Split) -> Uneven:
    return Uneven(data, split)
