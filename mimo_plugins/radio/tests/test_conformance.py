"""What the host expects of the plugin, in both resolutions."""

from radio_tiny import DYNAMIC, TINY

from mimo_core.testing import Conformance


class TestFixed(Conformance):
    plugin = "radio"
    kind = "encoder"
    options = TINY


class TestDynamic(Conformance):
    plugin = "radio"
    kind = "encoder"
    options = DYNAMIC | {"projector": "mlp", "projector_norm": "rms", "keep_class_tokens": False}
