"""What the host expects of the plugin, in both resolutions."""

from mimo_core.testing import Conformance


class TestFixed(Conformance):
    plugin = "radio"
    kind = "encoder"
    options = {  # noqa: RUF012
        "hidden_size": 16,
        "layers": 2,
        "heads": 2,
        "image_size": 16,
        "patch_size": 4,
        "max_image_size": 32,
        "class_tokens": 3,
    }
