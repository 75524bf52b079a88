"""From samples to what the tower takes, in both resolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from mimo_plugin_radio import plugin
from mimo_plugin_radio.options import Options
from radio_tiny import TINY, tiny_module

from mimo_core import MediaItem, Sample
from mimo_core.testing import raises_code

SHAPES = [(8, 24), (16, 16), (40, 8)]


class Context:
    """Gives pictures as the core's context does."""

    training = False

    def __init__(self, first_stage: bool = True) -> None:
        self.first_stage = first_stage

    def decode_media(self, samples: Sequence[Sample]) -> list[np.ndarray]:
        assert self.first_stage
        return [medium.load(None) for sample in samples for medium in sample.media("image")]

    def build_tokens(self, samples: Sequence[Sample]) -> Any:
        raise AssertionError("an encoder reads no text")


def _samples(*pictures: np.ndarray) -> list[Sample]:
    return [
        Sample(
            key=f"test/{index}",
            content=(
                MediaItem(modality="image", shape=picture.shape[:2], load=lambda _, p=picture: p),
            ),
        )
        for index, picture in enumerate(pictures)
    ]


def test_batch_is_normalised_and_of_one_size() -> None:
    small = np.zeros((16, 16, 3), dtype=np.uint8)
    large = np.full((40, 24, 3), 255, dtype=np.uint8)
    batch = plugin.provide_batch(tiny_module(), _samples(small, large), Context())
    assert batch is not None
    images = batch["images"].numpy()
    assert images.shape == (2, 3, 16, 16)
    assert images.dtype == np.float32
    options = Options(**TINY)
    black = [-mean / std for mean, std in zip(options.mean, options.std, strict=True)]
    white = [(1 - mean) / std for mean, std in zip(options.mean, options.std, strict=True)]
    np.testing.assert_allclose(images[0, :, 3, 5], black, rtol=1e-5)
    np.testing.assert_allclose(images[1].mean((1, 2)), white, rtol=1e-5)


def test_channels_and_rows_keep_their_place() -> None:
    picture = np.zeros((16, 16, 3), dtype=np.uint8)
    picture[2, 9, 1] = 255
    module = tiny_module(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    batch = plugin.provide_batch(module, _samples(picture), Context())
    assert batch is not None
    assert batch["images"].nonzero().tolist() == [[0, 1, 2, 9]]


@pytest.mark.parametrize("resolution", ["fixed", "dynamic"])
def test_no_pictures_no_batch(resolution: str) -> None:
    module = tiny_module(resolution=resolution)
    for context in (Context(), Context(first_stage=False)):
        assert plugin.provide_batch(module, [Sample(key="test/0", content=())], context) is None


@pytest.mark.parametrize("resolution", ["fixed", "dynamic"])
def test_later_stages_know_the_pictures_without_decoding_any(resolution: str) -> None:
    module = tiny_module(resolution=resolution)
    samples = _samples(*(np.zeros((*shape, 3), np.uint8) for shape in SHAPES))
    first = plugin.provide_batch(module, samples, Context())
    later = plugin.provide_batch(module, samples, Context(first_stage=False))
    assert first is not None and later is not None
    assert first.keys() - later.keys() == {"images" if resolution == "fixed" else "patches"}
    assert all(str(later[name]) == str(first[name]) for name in later)


@pytest.mark.parametrize("resolution", ["fixed", "dynamic"])
def test_picture_of_another_kind_is_refused(resolution: str) -> None:
    grey = np.zeros((16, 16), dtype=np.uint8)
    with raises_code("sample.wrong-medium", dtype="uint8", shape=(16, 16)):
        plugin.provide_batch(tiny_module(resolution=resolution), _samples(grey), Context())


def test_packed_patches_lie_picture_after_picture_in_reading_order() -> None:
    """Units of 8 pixels, two patches each way; every picture has the size that it already had."""
    pictures = [np.zeros((height, width, 3), dtype=np.uint8) for height, width in SHAPES]
    pictures[1][5, 10, 2] = 255  # second picture: patch row 1, column 2; in it pixel 1, 2; blue
    module = tiny_module(resolution="dynamic", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    batch = plugin.provide_batch(module, _samples(*pictures), Context())
    assert batch is not None
    assert batch["sizes"] == tuple(SHAPES)
    lengths = [height * width // 16 for height, width in SHAPES]
    assert list(batch["patches"].shape) == [sum(lengths), 48]
    patch = lengths[0] + 1 * (SHAPES[1][1] // 4) + 2
    assert batch["patches"].nonzero().tolist() == [[patch, 2 * 16 + 1 * 4 + 2]]


def test_rows_of_a_batch_are_those_counted_from_the_metadata() -> None:
    """Several pictures a sample, none in one, of any shape, sharing a budget sample by sample."""
    module = tiny_module(resolution="dynamic", sample_positions=30, pixel_shuffle=False)
    shapes = [[(40, 90), (7, 7)], [], [(33, 50), (64, 64), (200, 20)], [(64, 64)]]
    pictures = [_samples(*(np.zeros((*shape, 3), np.uint8) for shape in part)) for part in shapes]
    samples = [
        Sample(key=f"test/{index}", content=tuple(medium for one in part for medium in one.content))
        for index, part in enumerate(pictures)
    ]
    batch = plugin.provide_batch(module, samples, Context())
    positions = plugin.describe_module(module).count_positions
    assert batch is not None and positions is not None
    counted = [number for sample in samples for number in positions(tuple(sample.media("image")))]
    assert [height * width // 16 for height, width in batch["sizes"]] == counted
    assert sum(counted[:2]) <= 30 and sum(counted[2:5]) <= 30
    # Alone, the last picture gets more than it got beside two others.
    assert counted[5] > counted[3]


def test_both_resolutions_see_the_same_pixels() -> None:
    """A square of the fixed size, resized from a larger one."""
    picture = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    fixed = plugin.provide_batch(tiny_module(), _samples(picture), Context())
    module = tiny_module(resolution="dynamic", max_positions=4)
    dynamic = plugin.provide_batch(module, _samples(picture), Context())
    assert fixed is not None and dynamic is not None
    assert dynamic["sizes"] == ((16, 16),)
    patches = dynamic["patches"].view(4, 4, 3, 4, 4)  # [row, column, colour, y, x]
    image = patches.permute(2, 0, 3, 1, 4).reshape(3, 16, 16)
    assert bool((image == fixed["images"][0]).all())


def test_picture_of_another_shape_than_its_metadata_names_the_sample() -> None:
    medium = MediaItem(
        modality="image", shape=(24, 16), load=lambda _: np.zeros((16, 24, 3), dtype=np.uint8)
    )
    sample = Sample(key="album/7", content=(medium,))
    message = r"sample album/7 decodes to \[16, 24, 3\], .* \(height, width\) = \(24, 16\)"
    with pytest.raises(ValueError, match=message):
        plugin.provide_batch(tiny_module(resolution="dynamic"), [sample], Context())
