"""The plugin's hooks. Neither torch nor numpy is imported before an image is made."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from mimo_core import Data, Dataset, Sample, Split, hookimpl
from mimo_plugin_mock.options import Options, Range, bounds
from mimo_plugin_mock.samples import Mock, make_sample


@hookimpl
def options() -> type:
    """What the recipe's ``data.options`` may say."""
    return Options


@hookimpl
def build_dataset(data: Data, split: Split) -> Dataset:
    """The samples of one split."""
    return Mock(data, split)


@hookimpl
def preview(data: Data) -> Sequence[Sample]:
    """The largest and the smallest sample that the options allow."""
    return [
        make_sample(
            data,
            key=f"mock/{name}",
            generator=Random(data.seed),
            choose=choose,
        )
        for name, choose in (("largest", _largest), ("smallest", _smallest))
    ]


def _largest(given: Range) -> int:
    return bounds(given)[1]


def _smallest(given: Range) -> int:
    return bounds(given)[0]
