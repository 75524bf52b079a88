"""Options, description, windows and edges: what needs no model."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import attrs
import pytest
from mimo_plugin_whisper import plugin
from mimo_plugin_whisper.options import Options
from mimo_plugin_whisper.windows import resampled_length, window_positions
from whisper_tiny import TINY, tiny_module

from mimo_core import MediaItem
from mimo_core.testing import raises_code


def test_describing_imports_neither_torch_nor_numpy() -> None:
    code = """
import sys
from mimo_core import MediaItem
from whisper_tiny import tiny_module
from mimo_plugin_whisper import plugin
module = tiny_module()
sound = MediaItem(modality="audio", shape=(100, 8000), load=None)
plugin.describe_module(module).count_positions([sound])
plugin.module_edges(module, {}), plugin.rng_prefix(module), plugin.options_class()
plugin.param_mappings(module)
print(sorted({"torch", "megatron", "numpy"} & set(sys.modules)))
"""
    environ = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "hidden_size, layers, heads not given; set them, or size to one of tiny, base"),
        ({"hidden_size": 8, "layers": 2}, "heads not given; set it"),
        (TINY | {"heads": 3}, "hidden_size=16, heads=3: the width must be even"),
        (TINY | {"layers": 0}, "layers=0: expected a number above 0"),
        (TINY | {"window": 0.25}, "window=0.25: must be a whole number of positions of 0.02 s"),
        (TINY | {"window": 0.5}, "window=0.5, max_positions=12: the window takes 25 positions"),
        (TINY | {"stack": 5}, "stack=5: must divide the 12 positions of a window"),
        (TINY | {"dropout": 1.0}, "dropout=1.0: expected a probability below 1"),
        (TINY | {"projector_hidden_size": 8}, "leave it out or set projector=mlp"),
    ],
)
def test_options_that_cannot_be(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(**given)


@pytest.mark.parametrize(
    ("shape", "options", "windows"),
    [
        ((16_000, 16_000), {"max_positions": 100}, [50]),
        ((16_001, 16_000), {"max_positions": 100}, [51]),
        ((16_001, 16_000), {"max_positions": 100, "stack": 4}, [52]),
        ((8_000, 8_000), {"max_positions": 100}, [50]),
        ((1, 44_100), {"max_positions": 100}, [1]),
        ((40_000, 16_000), {"max_positions": 50}, [50, 50, 25]),
        ((40_000, 16_000), {"max_positions": 50, "windows": "padded"}, [50, 50, 50]),
        ((40_000, 16_000), {"max_positions": 50, "window": 0.4}, [20] * 6 + [5]),
        ((32_000, 16_000), {"max_positions": 50}, [50, 50]),
    ],
)
def test_windows_of_a_sound(
    shape: tuple[int, int], options: dict[str, Any], windows: list[int]
) -> None:
    module = tiny_module(**options)
    assert window_positions(shape, module.options) == windows
    positions = plugin.describe_module(module).count_positions
    assert positions is not None
    medium = MediaItem(modality="audio", shape=shape, load=_never)
    rows = sum(windows) // options.get("stack", 1)
    assert positions([medium, medium]) == [rows, rows]


@pytest.mark.parametrize("shape", [(100,), (0, 8000), (100, 8000, 1)])
def test_metadata_that_is_no_sounds(shape: tuple[int, ...]) -> None:
    with raises_code("sample.no-positions"):
        window_positions(shape, Options(**TINY))


def test_resampled_length_is_rounded_up() -> None:
    assert [resampled_length(441, 44_100), resampled_length(442, 44_100)] == [160, 161]


@pytest.mark.parametrize(("size", "bins"), [("tiny", 80), ("large", 128)])
def test_sizes_are_those_released(size: Any, bins: int) -> None:
    """Transformers counts the table of positions among the parameters."""
    import torch
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    options = Options(size=size, mel_bins=bins)
    config = WhisperConfig(
        d_model=options.tower_width,
        encoder_layers=options.tower_layers,
        encoder_attention_heads=options.tower_heads,
        encoder_ffn_dim=options.tower_ffn_width,
        num_mel_bins=bins,
    )
    with torch.device("meta"):
        due = sum(parameter.numel() for parameter in WhisperEncoder(config).parameters())
    module = attrs.evolve(tiny_module(), options=options, language_width=8)
    encoder = plugin.describe_module(module).num_parameters - (options.tower_width + 1) * 8
    assert encoder + 1500 * options.tower_width == due


def test_grid_may_grow_in_tp_pp_and_dp_and_tp_divides_the_widths() -> None:
    description = plugin.describe_module(tiny_module(projector="mlp", projector_hidden_size=40))
    assert description.supported_parallelism == {"tp", "pp", "dp"}
    assert {(value, grid) for _, value, grid in description.divisibility} == {
        (2, "tp"),
        (16, "tp"),
        (64, "tp"),
        (40, "tp"),
    }


def test_two_modules_share_neither_placeholder_nor_random_state() -> None:
    left, right = tiny_module(name="left"), tiny_module(name="right", placeholder="<sound>")
    edges = [plugin.module_edges(module, {})[0] for module in (left, right)]
    assert [edge.placeholder for edge in edges] == ["<left>", "<sound>"]
    assert {edge.target for edge in edges} == {"language"}
    assert plugin.rng_prefix(left) != plugin.rng_prefix(right)


def _never(_generator: Any) -> Any:
    raise AssertionError("decoded")
