"""The digits dataset: splits, captions, pictures, augmentation, the test of honesty."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from mimo_plugin_digits import pictures, plugin
from mimo_plugin_digits.dataset import derangement, split_members
from mimo_plugin_digits.options import WORDS, Options
from sklearn.datasets import load_digits

from mimo_core import Dataset, DatasetConfig, MediaItem, Sample, Text

COUNT = 1797
FIRST_HELD_OUT = [416, 1727, 585, 1514]


def _dataset(split: Any = "train", seed: int = 1, **options: Any) -> Dataset:
    data = DatasetConfig(plugin="digits", options=Options(**options), seed=seed)
    return plugin.build_dataset(data, split)


def _digest(split: Any = "train", seed: int = 1, **options: Any) -> str:
    dataset: Any = _dataset(split, seed, **options)
    return dataset.digest


def _medium(sample: Sample) -> MediaItem:
    (medium,) = sample.media("image")
    return medium


def _digit(sample: Sample) -> int:
    _, text = sample.content
    assert isinstance(text, Text)
    assert text.is_target
    return WORDS.index(text.text)


def test_other_plugins_take_it_from_the_package_which_loads_nothing_heavy() -> None:
    code = (
        "import sys, mimo_plugin_digits as digits, mimo_plugin_digits.plugin;"
        "print({'numpy', 'sklearn', 'torch'} & set(sys.modules), digits.Options.__name__,"
        " digits.Digits.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set() Options Digits"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": 7}, "size=7: .* give 8 or more"),
        ({"shift": -1}, "shift=-1: expected original pixels from 0"),
        ({"shift": 5}, "shift=5"),
        ({"held_out": 0.0}, "held_out=0.0: expected a share between 0 and 1"),
        ({"held_out": 1.0}, "held_out=1.0"),
    ],
)
def test_options_that_cannot_be(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(**given)


@pytest.mark.parametrize("held_out", [0.2, 0.5, 1e-9, 1 - 1e-9])
def test_splits_are_disjoint_and_cover_all(held_out: float) -> None:
    options = Options(held_out=held_out)
    train = split_members(COUNT, options, "train")
    validation = split_members(COUNT, options, "validation")
    assert sorted(train + validation) == list(range(COUNT))
    assert len(validation) == min(max(round(held_out * COUNT), 1), COUNT - 1)


def test_default_split_is_fixed_whatever_the_seed() -> None:
    """These numbers change only when figures of earlier runs stop being comparable."""
    first, second = _dataset("validation", seed=1), _dataset("validation", seed=2)
    assert (len(first), len(_dataset("train"))) == (359, 1438)
    shown = [_digit(first[index]) for index in range(len(first))]
    assert shown == [_digit(second[index]) for index in range(len(second))]
    assert split_members(COUNT, Options(), "validation")[:4] == FIRST_HELD_OUT
    assert set(shown) == set(range(10))


def test_samples_pair_picture_and_caption() -> None:
    digits = load_digits()
    for split in ("train", "validation"):
        dataset = _dataset(split, size=8)
        members = split_members(COUNT, Options(), split)
        for index in (0, 1, len(dataset) - 1):
            sample, original = dataset[index], members[index]
            assert sample.key == f"digits/{split}/{index}"
            assert _digit(sample) == digits.target[original]
            expected = np.rint(digits.images[original] * 255 / 16)
            np.testing.assert_array_equal(_medium(sample).load(None)[:, :, 1], expected)


def test_the_digest_covers_originals_options_and_order(monkeypatch: pytest.MonkeyPatch) -> None:
    known = [
        *(_digest(), _digest("validation"), _digest(size=8), _digest(shift=2)),
        *(_digest(shuffle_pictures=True, seed=seed) for seed in (1, 2)),
    ]
    assert len(set(known)) == len(known)
    assert _digest(seed=2) == _digest(seed=1)
    images, targets = pictures._digits()
    for changed in ((16 - images, targets), (images, targets[::-1])):
        monkeypatch.setattr(pictures, "_digits", lambda changed=changed: changed)
        assert _digest() not in known


def test_pictures_are_colour_of_the_size_asked_and_smooth() -> None:
    medium = _medium(_dataset()[3])
    picture = medium.load(None)
    assert medium.shape == (32, 32)
    assert (picture.shape, picture.dtype) == ((32, 32, 3), np.uint8)
    assert (picture[..., 0] == picture[..., 2]).all()
    assert picture.max() > 200
    # Four pixels an original one: no step is larger than a quarter of the range.
    assert np.abs(np.diff(picture[..., 0].astype(int), axis=0)).max() <= 64


def test_out_of_range_ends_iteration() -> None:
    dataset = _dataset("validation")
    assert sum(1 for _ in dataset) == len(dataset)
    with pytest.raises(IndexError, match="digits/validation has samples 0 to 358, not -1"):
        dataset[-1]


def test_samples_are_made_without_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    monkeypatch.setattr("mimo_plugin_digits.dataset.picture", lambda *_: decoded.append(1))
    sample = _dataset()[0]
    assert not decoded
    _medium(sample).load(None)
    assert decoded


def test_samples_travel_between_processes() -> None:
    medium = _medium(_dataset()[5])
    travelled = pickle.loads(pickle.dumps(medium))
    np.testing.assert_array_equal(travelled.load(None), medium.load(None))


def test_augmentation_is_a_function_of_the_generator() -> None:
    medium = _medium(_dataset(shift=2)[0])
    first = medium.load(np.random.default_rng(3))
    np.testing.assert_array_equal(medium.load(np.random.default_rng(3)), first)
    others = [medium.load(np.random.default_rng(seed)) for seed in range(20)]
    assert len({other.tobytes() for other in others}) > 10


def test_augmentation_moves_by_no_more_than_shift() -> None:
    picture = _medium(_dataset(shift=1)[0]).load(None)
    framed = np.pad(picture, ((4, 4), (4, 4), (0, 0)))
    windows = {
        framed[down : down + 32, right : right + 32].tobytes()
        for down in range(9)
        for right in range(9)
    }
    medium = _medium(_dataset(shift=1)[0])
    moved = {medium.load(np.random.default_rng(seed)).tobytes() for seed in range(60)}
    assert moved <= windows
    assert len(moved) > 30


def test_no_shift_draws_nothing_that_shows() -> None:
    medium = _medium(_dataset(shift=0)[0])
    np.testing.assert_array_equal(medium.load(np.random.default_rng(1)), medium.load(None))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_shuffled_pictures_are_those_of_other_samples(split: str) -> None:
    def pictures(seed: int, shuffle: bool) -> list[bytes]:
        dataset = _dataset(split, seed=seed, size=8, shuffle_pictures=shuffle)
        return [_medium(sample).load(None).tobytes() for sample in dataset]

    own, shuffled = pictures(1, False), pictures(1, True)
    assert sorted(own) == sorted(shuffled)
    assert shuffled == pictures(1, True)
    assert shuffled != pictures(2, True)
    assert sum(a == b for a, b in zip(own, shuffled, strict=True)) <= 1  # equal drawings
    captions = [_digit(sample) for sample in _dataset(split)]
    assert captions == [_digit(sample) for sample in _dataset(split, shuffle_pictures=True)]


@pytest.mark.parametrize("count", [2, 3, 10, 359])
def test_derangement_leaves_nothing_in_place(count: int) -> None:
    for seed in range(20):
        order = derangement(count, seed)
        assert sorted(order) == list(range(count))
        assert all(place != index for index, place in enumerate(order))


@pytest.mark.parametrize("size", [8, 40])
def test_the_preview_shows_what_the_dataset_holds(size: int) -> None:
    def told(sample: Sample) -> tuple[str, tuple[int, ...], int, bool]:
        medium, text = sample.content
        assert isinstance(medium, MediaItem)
        assert isinstance(text, Text)
        return medium.modality, medium.shape, len(text.text), text.is_target

    shown = plugin.preview_samples(DatasetConfig(plugin="digits", options=Options(size=size)))
    assert {told(sample) for sample in shown} == {told(sample) for sample in _dataset(size=size)}


def test_evaluation_names_its_metric() -> None:
    assert _dataset().metric == "caption_accuracy"  # type: ignore[attr-defined]
