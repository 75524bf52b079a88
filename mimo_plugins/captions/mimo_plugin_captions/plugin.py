"""The plugin's hooks. Neither torch, numpy nor Pillow is imported before they are needed."""

from __future__ import annotations

from collections.abc import Sequence

from mimo_core import Dataset, DatasetConfig, Sample, Split, hookimpl
from mimo_plugin_captions.options import Options

mimo_contract = "1.0"


@hookimpl
def options_class() -> type:
    """What the recipe's ``data.options`` may say."""
    return Options


@hookimpl
def build_dataset(data: DatasetConfig, split: Split) -> Dataset:
    """The samples of one split."""
    from mimo_plugin_captions.dataset import build

    return build(data.options, split)


@hookimpl
def preview_samples(data: DatasetConfig) -> Sequence[Sample]:
    """The first good samples of the file and its longest line; of images the headers are read."""
    from mimo_plugin_captions.preview import preview_samples

    return preview_samples(data.options)


@hookimpl
def preview_notes(data: DatasetConfig) -> Sequence[str]:
    """The fields of the file's first lines that nothing reads, and what looks like a marker."""
    from mimo_plugin_captions.fields import field_notes, marker_notes

    return [*field_notes(data.options), *marker_notes(data.options)]
