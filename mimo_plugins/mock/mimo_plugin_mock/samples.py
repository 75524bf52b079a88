"""Samples of images and text: drawn from their numbers, or as large or small as they come."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Callable
from functools import partial
from random import Random

from mimo_core import DatasetConfig, MediaItem, Sample, Split, Text
from mimo_plugin_mock.options import Range, bounds, options_of
from mimo_plugin_mock.pixels import BLOCK, pixels

_LETTERS = bytes(ord(string.ascii_letters[byte % 52]) for byte in range(256))


class Mock:
    """One split: sample ``index`` is a function of the seed, the split and ``index``."""

    def __init__(self, data: DatasetConfig, split: Split) -> None:
        options = options_of(data.options)
        self._data = data
        self._split = split
        self._length = options.samples if split == "train" else options.validation_samples
        self.digest = hashlib.sha256(f"{split} {data.seed} {options}".encode()).hexdigest()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"mock/{self._split} has samples 0 to {len(self) - 1}, not {index}")
        generator = Random(f"mock/{self._split}/{self._data.seed}/{index}")
        return make_sample(
            self._data,
            key=f"mock/{self._split}/{index}",
            generator=generator,
            choose=lambda given: generator.randint(*bounds(given)),
        )


def make_sample(
    data: DatasetConfig, *, key: str, generator: Random, choose: Callable[[Range], int]
) -> Sample:
    """Images, then text.

    Args:
        data: Its options and seed.
        key: The sample's key.
        generator: Draws the contents.
        choose: Gives each number of the sample from the range of the options.
    """
    options = options_of(data.options)
    images = [_image(data, generator, choose) for _ in range(choose(options.images.per_sample))]
    text = generator.randbytes(choose(options.text.characters)).translate(_LETTERS).decode("ascii")
    return Sample(key=key, content=(*images, Text(text=text, is_target=True)))


def _image(data: DatasetConfig, generator: Random, choose: Callable[[Range], int]) -> MediaItem:
    options = options_of(data.options).images
    height, width = choose(options.height), choose(options.width)
    load = partial(pixels, data.seed, generator.randrange(BLOCK), height, width)
    return MediaItem(modality="image", shape=(height, width), load=load)
