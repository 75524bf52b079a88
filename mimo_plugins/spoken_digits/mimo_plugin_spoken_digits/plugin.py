"""The plugin's hooks. Neither torch nor numpy is imported before a dataset is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mimo_core import Dataset, DatasetConfig, MediaItem, Sample, Split, Text, hookimpl
from mimo_plugin_spoken_digits.options import Options, options_of
from mimo_plugin_spoken_digits.voices import rates

if TYPE_CHECKING:
    import numpy as np

mimo_contract = "1.0"


@hookimpl
def options_class() -> type:
    """What the recipe's ``data.options`` may say."""
    return Options


@hookimpl
def build_dataset(data: DatasetConfig, split: Split) -> Dataset:
    """The samples of one split."""
    from mimo_plugin_spoken_digits.dataset import SpokenDigits

    return SpokenDigits(data, split)


@hookimpl
def preview_samples(data: DatasetConfig) -> Sequence[Sample]:
    """For each kind that has a share a sample of the longest words, at every rate of a voice."""
    given = options_of(data.options)
    picture = MediaItem(modality="image", shape=(given.size, given.size), load=_not_decoded)
    voices = (*given.voices, *given.held_out_voices)
    sounds = [
        MediaItem(modality="audio", shape=(int(given.seconds * rate), rate), load=_not_decoded)
        for rate in sorted({rate for voice in voices for rate in rates(voice)})
    ]
    kinds: dict[str, list[tuple[tuple[MediaItem, ...], str]]] = {
        "both": [((picture, sound), "seven seven") for sound in sounds],
        "picture": [((picture,), "seven -")],
        "sound": [((sound,), "- seven") for sound in sounds],
        "none": [((), "- -")],
    }
    return [
        Sample(key=f"spoken-digits/{kind}", content=(*media, Text(text=text, is_target=True)))
        for kind, share in given.shares.by_kind.items()
        if share
        for media, text in kinds[kind]
    ]


def _not_decoded(_generator: np.random.Generator | None) -> np.ndarray:
    raise AssertionError("media of a preview are never loaded")
