"""Options, description, edges and batches: what needs no model."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest
from mimo_plugin_radio import plugin
from mimo_plugin_radio.options import Options
from radio_tiny import DYNAMIC, TINY, tiny_module

from mimo_core import MediaItem, Sample


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "hidden_size, layers, heads not given; set them, or size to one of base, large, huge"),
        ({"hidden_size": 8, "layers": 2}, "heads not given; set it"),
        (TINY | {"heads": 3}, "hidden_size=16, heads=3: the width must be a multiple"),
        (TINY | {"layers": 0}, "layers=0: expected 1 or more"),
        (TINY | {"max_positions": 64}, "max_positions=64: not read where resolution=fixed"),
        (DYNAMIC | {"image_size": 64}, "image_size=64: not read where resolution=dynamic"),
        (DYNAMIC | {"min_positions": 33}, "max_positions=64, min_positions=33: .* at least twice"),
        (DYNAMIC | {"min_positions": 8, "sample_positions": 7}, "not one picture would fit"),
        (DYNAMIC | {"max_image_size": 30}, "max_image_size=30: must be a multiple of patch_size"),
        (TINY | {"image_size": 20}, "image_size=20: must be a multiple of 8 .patch_size=4, times"),
        (TINY | {"max_image_size": 30}, "max_image_size=30: must be a multiple of patch_size=4"),
        (TINY | {"class_tokens": -1}, "class_tokens=-1: expected 0 or more"),
        (TINY | {"keep_class_tokens": True}, "four times as wide as a class token"),
        (
            TINY | {"keep_class_tokens": True, "pixel_shuffle": False, "class_tokens": 0},
            "none to keep",
        ),
        (TINY | {"position_crop": True, "image_size": 32}, "make max_image_size larger"),
        (TINY | {"projector_hidden_size": 8}, "leave it out or set projector=mlp"),
        (TINY | {"dropout": 1.0}, "dropout=1.0: expected a probability below 1"),
        (TINY | {"std": (1.0, 0.0, 1.0)}, "each must be above 0"),
        (TINY | {"std": (1.0, float("nan"), 1.0)}, "each must be above 0 and finite"),
    ],
)
def test_options_that_cannot_be(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(**given)


def test_resolution_that_is_not_read_constrains_nothing() -> None:
    """512, the default side in fixed resolution, is no multiple of units of 28 pixels."""
    with pytest.raises(ValueError, match="image_size=512: must be a multiple of 28"):
        Options(size="huge", patch_size=14, max_image_size=1428)
    Options(size="huge", patch_size=14, max_image_size=1428, resolution="dynamic")


def test_preset_gives_what_is_not_given() -> None:
    options = Options(size="huge", layers=4)
    assert (options.tower_width, options.tower_layers, options.tower_heads) == (1280, 4, 16)
    assert options.tower_ffn_width == 5120


def test_huge_is_the_released_size() -> None:
    """C-RADIO ViT-H: 32 layers of 1280 with 2048 px positions; about 0.65 billion parameters."""
    module = attrs.evolve(tiny_module(), options=Options(size="huge"), language_width=2688)
    description = plugin.describe_module(module)
    assert (description.num_layers, description.hidden_size) == (32, 5120)
    tower = description.num_parameters - 5121 * 2688
    assert 0.6e9 < tower < 0.7e9
    # Twice the parameters of the layers, and attention over 1024 patches and 8 class tokens.
    layers, attention = 1032 * 32 * 12 * 1280**2, 32 * 2 * 1032**2 * 1280
    picture = MediaItem(modality="image", shape=(512, 512), load=lambda _: None)
    told, projector = plugin.estimate_flops(module, [Sample(key="one", content=(picture,))])
    assert told.weight_matmul == pytest.approx(2 * layers, rel=0.002)  # and the patch embedder
    assert told.activation_matmul == 2 * attention
    assert projector.weight_matmul == 2 * 256 * 5120 * 2688


@pytest.mark.parametrize(
    ("options", "positions", "width"),
    [
        ({}, 4, 64),
        ({"pixel_shuffle": False}, 16, 16),
        ({"pixel_shuffle": False, "keep_class_tokens": True}, 19, 16),
    ],
)
def test_positions_of_any_picture(options: dict[str, Any], positions: int, width: int) -> None:
    description = plugin.describe_module(tiny_module(**options))
    medium = MediaItem(modality="image", shape=(480, 640), load=_never)
    assert description.count_positions is not None
    assert description.count_positions([medium, medium]) == [positions, positions]
    assert description.hidden_size == width
    assert description.modality == "image"


def test_grid_may_grow_in_tp_pp_and_dp_and_tp_divides_the_widths() -> None:
    description = plugin.describe_module(tiny_module(projector="mlp"))
    assert description.supported_parallelism == {"tp", "pp", "dp"}
    assert {(value, grid) for _, value, grid in description.divisibility} == {
        (2, "tp"),
        (16, "tp"),
        (64, "tp"),
        (256, "tp"),
    }


@pytest.mark.parametrize(("width", "ffn"), [(16, 77), (98, 2)])
def test_the_exported_config_is_of_the_same_tower(width: int, ffn: int) -> None:
    """Of the second, the width times the nearest ratio is below the inner width."""
    weights = plugin.param_mappings(tiny_module(hidden_size=width, ffn_hidden_size=ffn))
    assert weights.config_mistakes is not None
    assert weights.exported_config["model_type"] == "radio"
    assert list(weights.config_mistakes(weights.exported_config)) == []
    assert plugin.param_mappings(tiny_module(class_tokens=0)).exported_config == {}


def test_placeholder_can_be_chosen() -> None:
    (edge,) = plugin.module_edges(tiny_module(placeholder="<image>"), {})
    assert edge.placeholder == "<image>"


def _never(_generator: Any) -> np.ndarray:
    raise AssertionError("decoded")
