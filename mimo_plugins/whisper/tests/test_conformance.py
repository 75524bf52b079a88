"""What the host expects of the plugin, with short windows and with padded ones."""

from whisper_tiny import TINY

from mimo_core.testing import Conformance

SHAPES = ((5000, 16_000), (700, 8_000), (3840, 16_000))
"""Samples and samples a second: more than a window, less than one, and one."""


class TestShortWindows(Conformance):
    plugin = "whisper"
    kind = "encoder"
    options = TINY | {"stack": 3}
    shapes = SHAPES
    # Of a sound of several windows the convolutions see the last filled up with zeros.
    flops_tolerance = 0.06


class TestPaddedWindows(Conformance):
    plugin = "whisper"
    kind = "encoder"
    options = TINY | {"windows": "padded", "stack": 2, "projector": "mlp"}
    shapes = SHAPES
