"""Sizes of pictures in dynamic resolution: aspect ratios, and budgets that are always kept."""

from __future__ import annotations

import random
import re

import attrs
import pytest
from mimo_plugin_radio import plugin
from mimo_plugin_radio.options import Options
from mimo_plugin_radio.sizes import picture_sizes
from radio_tiny import tiny_module

from mimo_core import MediaItem, Sample
from mimo_core.testing import raises_code


def _options(**options: object) -> Options:
    """Units of 32 pixels, as released RADIOs with pixel shuffle have."""
    return Options(**({"size": "huge", "resolution": "dynamic"} | options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((512, 512), (512, 512)),
        ((480, 640), (480, 640)),
        # Not enlarged: sides are rounded down.
        ((639, 479), (608, 448)),
        # Shrunk to 1024 positions.
        ((2048, 2048), (1024, 1024)),
        ((3000, 4000), (27 * 32, 36 * 32)),
        # Enlarged to 16 positions.
        ((20, 20), (128, 128)),
        ((32, 64), (96, 192)),
        # Longer than any grid of its aspect ratio.
        ((1, 512), (32, 512)),
        ((100000, 10), (1024 * 32, 32)),
    ],
)
def test_size_of_one_picture(shape: tuple[int, int], size: tuple[int, int]) -> None:
    assert picture_sizes([shape], _options()) == [size]


def _shapes(count: int) -> list[tuple[int, int]]:
    """Random sides, small and large alike, 1 to 8192 pixels."""
    generator = random.Random(7)
    return [
        (int(2 ** generator.uniform(0, 13)), int(2 ** generator.uniform(0, 13)))
        for _ in range(count)
    ]


@pytest.mark.parametrize(
    ("least", "most"), [(1, 2), (2, 4), (3, 6), (5, 10), (7, 14), (16, 1024), (37, 74), (1, 4096)]
)
def test_budget_of_a_picture_is_kept_whatever_its_shape(least: int, most: int) -> None:
    options = _options(min_positions=least, max_positions=most)
    for shape in _shapes(3000):
        ((height, width),) = picture_sizes([shape], options)
        positions = options.positions_of((height, width))
        assert least <= positions <= most, shape
        assert height % 32 == width % 32 == 0
        if positions > 2 * least:
            assert height <= max(32, shape[0]) and width <= max(32, shape[1]), shape


def test_aspect_ratio_is_kept_within_a_unit_on_a_side() -> None:
    options = _options()
    for height, width in _shapes(3000):
        ((rows, columns),) = (
            (h // 32, w // 32) for h, w in picture_sizes([(height, width)], options)
        )
        if min(rows, columns) > 1:
            ratio = height / width
            assert (rows - 1) / (columns + 1) < ratio < (rows + 1) / (columns - 1)


def test_size_is_nearly_as_large_as_the_budget_allows() -> None:
    """A picture larger than its budget loses less than one unit on each side."""
    for height, width in ((3000, 4000), (4000, 1000), (1500, 2900), (8000, 8000)):
        ((rows, columns),) = (
            (h // 32, w // 32) for h, w in picture_sizes([(height, width)], _options())
        )
        assert (rows + 1) * (columns + 1) > 1024


def test_square_fills_a_square_budget_however_its_side_rounds() -> None:
    options = _options(min_positions=1, max_positions=4)
    for side in range(64, 2000):
        assert picture_sizes([(side, side)], options) == [(64, 64)], side


@pytest.mark.parametrize("budget", [80, 200, 700, 2000, 5000])
def test_pictures_of_a_sample_share_its_budget(budget: int) -> None:
    shapes = [(480, 640), (2000, 1000), (64, 64), (900, 900)]
    options = _options(sample_positions=budget)
    own = [options.positions_of(size) for size in picture_sizes(shapes, _options())]
    shared = [options.positions_of(size) for size in picture_sizes(shapes, options)]
    assert sum(shared) <= budget
    if budget >= sum(own):
        assert shared == own
        return
    assert all(16 <= less <= full for less, full in zip(shared, own, strict=True))
    if budget >= 700:
        assert sum(shared) > 0.85 * budget
        # One factor for all that are above their minimum.
        factors = [less / full for less, full in zip(shared, own, strict=True) if full > 16]
        assert max(factors) < 1.3 * min(factors)


def test_order_of_pictures_does_not_change_their_sizes() -> None:
    shapes = _shapes(8)
    options = _options(sample_positions=600)
    sizes = picture_sizes(shapes, options)
    assert picture_sizes(shapes[::-1], options) == sizes[::-1]


@pytest.mark.parametrize("budget", [200, 500, 3000])
def test_random_samples_keep_their_budget(budget: int) -> None:
    options = _options(sample_positions=budget, max_positions=256, min_positions=5)
    shapes = _shapes(600)
    for start in range(0, 600, 6):
        positions, own = (
            [given.positions_of(size) for size in picture_sizes(shapes[start : start + 6], given)]
            for given in (options, attrs.evolve(options, sample_positions=None))
        )
        assert sum(positions) <= budget
        assert all(5 <= less <= full for less, full in zip(positions, own, strict=True))


def test_no_picture_grows_because_others_are_beside_it() -> None:
    """Enlarged to its minimum this one would be 2x2; it has 1x2, the minimum, by itself."""
    options = _options(min_positions=2, max_positions=16, sample_positions=10)
    assert picture_sizes([(58, 67), (128, 128)], options)[0] == (32, 64)


def test_sample_whose_minimum_is_too_much_says_the_numbers() -> None:
    message = (
        "the 5 pictures of a sample take 80 sequence positions at the least (min_positions=16 "
        "each, in whole rows and columns), more than radio option sample_positions=79"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        picture_sizes([(512, 512)] * 5, _options(sample_positions=79))
    assert picture_sizes([(512, 512)] * 5, _options(sample_positions=80)) == [(128, 128)] * 5


def test_kept_class_tokens_count_in_every_budget() -> None:
    given = {"pixel_shuffle": False, "keep_class_tokens": True, "class_tokens": 8}
    options = _options(**given, max_positions=72, min_positions=24, sample_positions=100)
    (size,) = picture_sizes([(999, 999)], options)
    assert size == (128, 128)
    assert options.positions_of(size) == 72
    pair = picture_sizes([(999, 999)] * 2, options)
    assert sum(options.positions_of(size) for size in pair) <= 100


@pytest.mark.parametrize("shape", [(480, 640, 3), (0, 10), (7,)])
def test_metadata_that_is_no_height_and_width_is_refused(shape: tuple[int, ...]) -> None:
    with raises_code("sample.no-positions"):
        picture_sizes([shape], _options())


def test_description_counts_positions_of_all_pictures_of_a_sample_together() -> None:
    module = tiny_module(resolution="dynamic", sample_positions=24)
    positions = plugin.describe_module(module).count_positions
    assert positions is not None
    square, wide = (MediaItem(modality="image", shape=s, load=_never) for s in ((32, 32), (16, 64)))
    assert positions([square]) == [16]
    assert positions([wide]) == [16]
    assert sum(positions([square, wide])) <= 24
    assert positions([]) == []


def test_each_picture_attends_to_itself_alone() -> None:
    """In its own size: two pictures of a sample take what they take one by one."""

    def flops(*shapes: tuple[int, int], **options: object) -> list[float]:
        media = tuple(MediaItem(modality="image", shape=shape, load=_never) for shape in shapes)
        sample = Sample(key="pictures", content=media)
        pieces = plugin.estimate_flops(tiny_module(**options), [sample])
        return [
            number for piece in pieces for number in (piece.weight_matmul, piece.activation_matmul)
        ]

    dynamic = {"resolution": "dynamic", "max_positions": 64}
    small, large = flops((16, 16), **dynamic), flops((64, 64), **dynamic)
    assert large == flops((7, 9), image_size=64)
    assert large[1] * (4 * 4 + 3) ** 2 == small[1] * (16 * 16 + 3) ** 2
    together = flops((16, 16), (64, 64), **dynamic)
    assert together == [one + other for one, other in zip(small, large, strict=True)]
    assert flops(**dynamic) == [0.0] * 4


def _never(_generator: object) -> object:
    raise AssertionError("decoded")
