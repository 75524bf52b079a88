"""All that a host expects, by mimo-core's kit."""

from mimo_core.testing import Conformance

SMALL = {"hidden_size": 16, "layers": 2, "image_size": 16, "patch_size": 4}


class TestMixer(Conformance):
    plugin = "mixer"
    kind = "encoder"
    options = SMALL
