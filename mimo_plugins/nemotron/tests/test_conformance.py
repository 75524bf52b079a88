"""What the host expects of the plugin: every layer type."""

from nemotron_modules import SMALL

from mimo_core.testing import Conformance


class TestEveryLayer(Conformance):
    plugin = "nemotron"
    kind = "language"
    options = {"pattern": "M*-E", "experts": 4} | SMALL
    # The Mamba2 scan and convolution, which are counted by formula, are so much in so small a
    # model; test_model has the other layers exactly.
    flops_tolerance = 0.05
