"""What the host expects of the plugin: every layer type."""

from nemotron_modules import SMALL

from mimo_core.testing import Conformance


class TestEveryLayer(Conformance):
    plugin = "nemotron"
    kind = "language"
    options = {"pattern": "M*-E", "experts": 4} | SMALL
