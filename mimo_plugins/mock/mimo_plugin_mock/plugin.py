"""The plugin's hooks. Neither torch nor numpy is imported before an image is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import attrs

from mimo_core import Dataset, DatasetConfig, Sample, Split, hookimpl
from mimo_plugin_mock.options import ImageOptions, Options, Range, bounds, options_of
from mimo_plugin_mock.samples import Mock, make_sample
from mimo_plugin_mock.shapes import preview_shapes

mimo_contract = "1.0"


@hookimpl
def options_class() -> type:
    """What the recipe's ``data.options`` may say."""
    return Options


@hookimpl
def build_dataset(data: DatasetConfig, split: Split) -> Dataset:
    """The samples of one split."""
    return Mock(data, split)


@hookimpl
def preview_samples(data: DatasetConfig) -> Sequence[Sample]:
    """The samples of most images and text that the options allow, each with images of another
    shape, the largest first; then the smallest sample."""
    given = options_of(data.options)
    shapes = preview_shapes(given.images) if bounds(given.images.per_sample)[1] else []
    longest = {"largest": given.images} | {
        f"{height}x{width}": attrs.evolve(given.images, height=height, width=width)
        for height, width in shapes[1:]
    }
    return [
        *(_shown(data, name, images, _largest) for name, images in longest.items()),
        _shown(data, "smallest", given.images, _smallest),
    ]


def _shown(
    data: DatasetConfig, name: str, images: ImageOptions, choose: Callable[[Range], int]
) -> Sample:
    options = attrs.evolve(options_of(data.options), images=images)
    return make_sample(
        attrs.evolve(data, options=options),
        key=f"mock/{name}",
        generator=Random(data.seed),
        choose=choose,
    )


def _largest(given: Range) -> int:
    return bounds(given)[1]


def _smallest(given: Range) -> int:
    return bounds(given)[0]
