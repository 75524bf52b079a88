"""One split of the digits as samples: a picture, and its caption to be learned."""

from __future__ import annotations

import hashlib
from functools import partial

import numpy as np

from mimo_core import DatasetConfig, MediaItem, Sample, Split, Text
from mimo_plugin_digits.options import WORDS, Options, options_of
from mimo_plugin_digits.pictures import labels, originals_digest, picture


class Digits:
    """The digits of one split, in an order that is the same everywhere."""

    metric = "caption_accuracy"

    def __init__(self, data: DatasetConfig, split: Split) -> None:
        self._options = options_of(data.options)
        self._split = split
        self._labels = labels()
        self._members = split_members(len(self._labels), self._options, split)
        self._pictures = self._members
        if self._options.shuffle_pictures:
            order = derangement(len(self._members), data.seed)
            self._pictures = [self._members[place] for place in order]
        content = hashlib.sha256(f"{split} {self._options}".encode())
        for numbers in (self._members, self._pictures):
            content.update(np.array(numbers, dtype=np.int64).tobytes())
        content.update(originals_digest())
        self.digest = content.hexdigest()
        """Hash of the options, the order of the samples, and scikit-learn's pictures and labels."""

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"digits/{self._split} has samples 0 to {len(self) - 1}, not {index}")
        size = self._options.size
        load = partial(picture, self._pictures[index], size, self._options.shift)
        return Sample(
            key=f"digits/{self._split}/{index}",
            content=(
                MediaItem(modality="image", shape=(size, size), load=load),
                Text(text=WORDS[self._labels[self._members[index]]], is_target=True),
            ),
        )


def split_members(count: int, options: Options, split: Split) -> list[int]:
    """Which of ``count`` originals belong to a split: by a hash of their index, whatever the seed.

    They come in the order of the hash, so that the first few show various digits.
    """
    ordered = sorted(range(count), key=_hash)
    held_out = min(max(round(options.held_out * count), 1), count - 1)
    return ordered[:held_out] if split == "validation" else ordered[held_out:]


def _hash(index: int) -> bytes:
    return hashlib.blake2b(f"digits/{index}".encode()).digest()


def derangement(count: int, seed: int) -> list[int]:
    """A permutation of ``range(count)`` in one cycle: for ``count`` > 1 nothing keeps its place."""
    cycle = np.random.default_rng(seed).permutation(count)
    order = np.empty(count, dtype=np.int64)
    order[cycle] = np.roll(cycle, 1)
    return order.tolist()
