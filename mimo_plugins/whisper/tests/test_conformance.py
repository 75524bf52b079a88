"""What the host expects of the plugin."""

from whisper_tiny import TINY

from mimo_core.testing import Conformance


class TestTiny(Conformance):
    plugin = "whisper"
    kind = "encoder"
    options = TINY
