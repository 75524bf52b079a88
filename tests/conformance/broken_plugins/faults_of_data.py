"""Faults of datasets."""

from __future__ import annotations

import numpy as np
from fault import Fault
from good_plugins import Pictures, dataset

from mimo_core import MediaItem, Sample, Text


class DatasetFault(Fault):
    kind = "dataset"


class _SameKeys(Pictures):
    def __getitem__(self, index: int) -> Sample:
        return Sample(key=f"{index}", content=(self.medium(index), self.text(index)))


class _OtherShape(Pictures):
    def medium(self, index: int) -> MediaItem:
        return MediaItem(modality="image", shape=(6, 4), load=super().medium(index).load)


class _Lambda(Pictures):
    def __init__(self, split: str) -> None:
        super().__init__(split)
        self.make = lambda: None


class _Global(Pictures):
    def medium(self, index: int) -> MediaItem:
        return MediaItem(modality="image", shape=(4, 6), load=_global)


def _global(generator: np.random.Generator | None) -> np.ndarray:
    if generator is None:
        return np.zeros((4, 6, 3), dtype=np.uint8)
    return np.random.randint(0, 255, (4, 6, 3)).astype(np.uint8)


class _Silent(Pictures):
    def text(self, index: int) -> Text:
        return Text(text="x")


class _Long(Pictures):
    def text(self, index: int) -> Text:
        return Text(text="x" * 40, is_target=True)


class SplitsShareSamples(DatasetFault):
    plugin = dataset(_SameKeys)
    expected = ("sample_keys_are_unique_and_splits_disjoint", "keep it out of one split")


class MediaHaveOtherShapes(DatasetFault):
    plugin = dataset(_OtherShape)
    expected = ("media_are_as_their_metadata_say", "is told as [6, 4], but load() gives [4, 6, 3]")


class AugmentationDrawsElsewhere(DatasetFault):
    plugin = dataset(_Global)
    expected = ("media_are_as_their_metadata_say", "draw from load()'s argument alone")


class ItCannotBePickled(DatasetFault):
    plugin = dataset(_Lambda)
    expected = ("the_dataset_goes_to_worker_processes", "functools.partial in place of a lambda")


class NothingIsLearned(DatasetFault):
    plugin = dataset(_Silent)
    expected = ("samples_are_samples", "Text(text=…, loss=True)")


class ThePreviewIsShort(DatasetFault):
    plugin = dataset(_Long)
    expected = ("the_preview_shows_the_longest", "preview() must show the longest")
