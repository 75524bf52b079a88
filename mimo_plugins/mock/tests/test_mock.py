"""The mock dataset: sizes as asked, contents random, the same in every process."""

from __future__ import annotations

import hashlib
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mimo_plugin_mock import plugin
from mimo_plugin_mock.options import ImageOptions, Options, TextOptions
from mimo_plugin_mock.pixels import BLOCK, pixels

from mimo_core import Dataset, DatasetConfig, Sample, Text
from mimo_core.errors import RecipeError
from mimo_core.planning.plan import make_plan
from mimo_core.recipe import load_text, structure_options

VARIED = {
    "samples": 40,
    "images": {"per_sample": [0, 3], "height": [16, 48], "width": 24},
    "text": {"characters": [5, 50]},
}
RECIPE = """\
modules: {language: {plugin: nemotron}}
data: {plugin: mock}
train: {iterations: 1, micro_batch_size: 1, global_batch_size: 1, sequence_length: 8,
        learning_rate: 1}
"""


def _options(values: dict[str, Any]) -> Options:
    """As the core structures the recipe's ``data.options``."""
    loaded = load_text(RECIPE, "recipe.yaml")
    return structure_options(loaded, ("data", "options"), plugin.options_class(), values)


def _dataset(values: dict[str, Any], split: Any = "train", seed: int = 1) -> Dataset:
    return plugin.build_dataset(
        DatasetConfig(plugin="mock", options=_options(values), seed=seed), split
    )


def _text(sample: Sample) -> str:
    text = sample.content[-1]
    assert isinstance(text, Text)
    assert text.is_target
    return text.text


def _print(dataset: Dataset) -> str:
    """A hash of every sample, pixels included."""
    told = hashlib.sha256()
    for index in range(len(dataset)):
        told.update(_text(dataset[index]).encode())
        for image in dataset[index].media("image"):
            told.update(repr(image.shape).encode() + image.load(None).tobytes())
    return told.hexdigest()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"samples": 0}, "mock option samples=0: expected 1 or more"),
        ({"validation_samples": 0}, "mock option validation_samples=0"),
        ({"images": {"per_sample": -1}}, "mock option images.per_sample=-1: .* at least 0"),
        ({"images": {"height": 0}}, "mock option images.height=0: .* at least 1"),
        (
            {"images": {"width": [9, 8]}},
            r"width=\[9, 8\]: the smallest comes first; write \[8, 9\]",
        ),
        ({"text": {"characters": 0}}, "mock option text.characters=0"),
        ({"text": {"words": 3}}, "data.options.text.words: unknown key 'words'"),
        ({"text": {"characters": "many"}}, "data.options.text.characters: expected an integer or"),
    ],
)
def test_options_that_cannot_be(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        _options(given)


def test_sizes_are_those_asked() -> None:
    dataset = _dataset({"images": {"per_sample": 2, "height": 30, "width": 20}})
    for index in (0, 1, len(dataset) - 1):
        sample = dataset[index]
        assert [type(part) for part in sample.content[2:]] == [Text]
        assert [image.shape for image in sample.media("image")] == [(30, 20)] * 2
        for image in sample.media("image"):
            pixels_ = image.load(np.random.default_rng(1))
            assert (pixels_.shape, pixels_.dtype) == ((30, 20, 3), np.uint8)
        text = _text(sample)
        assert (len(text), len(text.encode())) == (100, 100)
        assert text.isalpha()
    assert (len(dataset), len(_dataset({}, "validation"))) == (1024, 16)


def test_ranges_are_used_from_end_to_end() -> None:
    dataset = _dataset(VARIED | {"samples": 400})
    samples = [dataset[index] for index in range(400)]
    images = [list(sample.media("image")) for sample in samples]
    assert {len(some) for some in images} == {0, 1, 2, 3}
    shapes = {image.shape for some in images for image in some}
    assert shapes == {(height, 24) for height in range(16, 49)}
    assert {len(_text(sample)) for sample in samples} == set(range(5, 51))


def test_text_alone() -> None:
    dataset = _dataset({"images": {"per_sample": 0}, "text": {"characters": 8192}})
    assert [len(part.text) for part in dataset[3].content] == [8192]  # type: ignore[union-attr]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (64, 48), (700, 700)])
@pytest.mark.parametrize("offset", [0, BLOCK - 5])
def test_pixels_are_random_and_never_zero(height: int, width: int, offset: int) -> None:
    image = pixels(1, offset, height, width)
    assert image.shape == (height, width, 3)
    assert image.min() > 0
    if height > 1:
        assert abs(image.mean() - 128) < 2
        assert abs(image.std() - 255 / 12**0.5) < 2
        assert len(np.unique(image, axis=0)) == height


def test_images_may_be_written_and_stay_as_they_are() -> None:
    """What a process does with one image leaves the next untouched."""
    first = pixels(1, 3, 8, 8)
    kept = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(pixels(1, 3, 8, 8), kept)


def test_no_two_samples_are_alike_and_splits_and_seeds_differ() -> None:
    dataset = _dataset(VARIED | {"text": {"characters": 20}})
    assert len({_text(dataset[index]) for index in range(40)}) == 40
    loads = [
        image.load(None).tobytes() for place in range(40) for image in dataset[place].media("image")
    ]
    assert len(set(loads)) == len(loads)
    held_out = VARIED | {"validation_samples": 40}
    prints = [
        _print(_dataset(held_out)),
        _print(_dataset(held_out, "validation")),
        _print(_dataset(held_out, seed=2)),
    ]
    assert len(set(prints)) == 3


def test_digests_differ_where_samples_do() -> None:
    digests = {
        dataset.digest  # type: ignore[attr-defined]
        for dataset in (
            _dataset({}),
            _dataset({}, seed=2),
            _dataset({}, "validation"),
            _dataset({"text": {"characters": 99}}),
            _dataset({"images": {"width": [512, 513]}}),
        )
    }
    assert len(digests) == 5


def test_samples_travel_to_workers() -> None:
    (image,) = _dataset({})[0].media("image")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(image)).load(None), image.load(None))


def test_out_of_range_ends_iteration() -> None:
    dataset = _dataset(VARIED)
    assert sum(1 for _ in dataset) == 40
    with pytest.raises(IndexError, match="mock/train has samples 0 to 39, not -1"):
        dataset[-1]


def test_the_preview_shows_the_largest_and_the_smallest() -> None:
    options = Options(
        images=ImageOptions(per_sample=(0, 3), height=(16, 48), width=24),
        text=TextOptions(characters=(5, 50)),
    )
    largest, *others, smallest = plugin.preview_samples(
        DatasetConfig(plugin="mock", options=options)
    )
    assert [image.shape for image in largest.media("image")] == [(48, 24)] * 3
    assert all(len(list(sample.media("image"))) == 3 for sample in others)
    assert all(len(_text(sample)) == 50 for sample in others)
    assert (len(_text(largest)), list(smallest.media("image")), len(_text(smallest))) == (50, [], 5)


def _shapes(images: dict[str, Any]) -> list[tuple[int, ...]]:
    """Of the images that the preview shows, without the smallest sample."""
    shown = plugin.preview_samples(
        DatasetConfig(plugin="mock", options=_options({"images": images}))
    )
    return [image.shape for sample in shown[:-1] for image in sample.media("image")]


def test_the_preview_shows_the_corners_and_aspect_ratios_between() -> None:
    shapes = _shapes({"height": [30, 200], "width": [40, 160]})
    assert len(set(shapes)) == len(shapes) < 40
    assert {(200, 160), (200, 40), (30, 160), (30, 40)} <= set(shapes)
    ratios = sorted(height / width for height, width in shapes)
    assert all(after / before < 1.4 for before, after in pairwise(ratios))
    assert _shapes({"height": 30, "width": [40, 41]}) == [(30, 41), (30, 40)]
    assert _shapes({"height": 30, "width": 40}) == [(30, 40)]
    text_alone = _options({"images": {"per_sample": 0, "height": [30, 200]}})
    assert len(plugin.preview_samples(DatasetConfig(plugin="mock", options=text_alone))) == 2


RADIO = """\
modules:
  vision:
    plugin: radio
    options: {hidden_size: 16, layers: 1, heads: 2, resolution: dynamic, max_positions: 40,
              min_positions: 4, max_image_size: 512}
  language:
    plugin: nemotron
    options: {pattern: "M*-", hidden_size: 32, attention_heads: 4, mamba_heads: 4,
              mamba_head_dim: 16, mamba_state: 8, mamba_groups: 2}
data:
  plugin: mock
  options: {images: {per_sample: [0, 2], height: [64, 256], width: [64, 256]}}
train: {iterations: 1, micro_batch_size: 1, global_batch_size: 1, sequence_length: 400,
        learning_rate: 1}
"""


def test_the_plan_finds_more_positions_than_the_largest_images_have(tmp_path: Path) -> None:
    """Of at most 40 whole units a square image has 6 x 6, and one of 8 to 5 all of them."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RADIO)
    shown = {counts.sample: counts.encoders["vision"] for counts in make_plan(str(recipe)).preview}
    assert shown["mock/largest"] == 2 * 36
    assert shown["mock/256x160"] == max(shown.values()) == 2 * 40
    assert shown["mock/smallest"] == 0
