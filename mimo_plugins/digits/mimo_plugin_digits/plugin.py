"""The plugin's hooks. Neither torch nor scikit-learn is imported before a dataset is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mimo_core import Dataset, DatasetConfig, MediaItem, Sample, Split, Text, hookimpl
from mimo_plugin_digits.options import WORDS, Options, options_of

if TYPE_CHECKING:
    import numpy as np

mimo_contract = "1.0"


@hookimpl
def options_class() -> type:
    """What the recipe's ``data.options`` may say."""
    return Options


@hookimpl
def build_dataset(data: DatasetConfig, split: Split) -> Dataset:
    """The digits of one split."""
    from mimo_plugin_digits.dataset import Digits

    return Digits(data, split)


@hookimpl
def preview_samples(data: DatasetConfig) -> Sequence[Sample]:
    """One sample for each digit: every caption, beside a picture of the size asked for."""
    size = options_of(data.options).size
    picture = MediaItem(modality="image", shape=(size, size), load=_not_decoded)
    return [
        Sample(key=f"digits/{word}", content=(picture, Text(text=word, is_target=True)))
        for word in WORDS
    ]


def _not_decoded(_generator: np.random.Generator | None) -> np.ndarray:
    raise AssertionError("media of a preview are never loaded")
