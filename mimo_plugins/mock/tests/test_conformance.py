"""What the host expects of the plugin."""

from typing import Any, ClassVar

from mimo_core.testing import Conformance


class TestMock(Conformance):
    plugin = "mock"
    kind = "dataset"
    options: ClassVar[dict[str, Any]] = {
        "images": {"per_sample": [0, 2], "height": [8, 24], "width": 16},
        "text": {"characters": [1, 40]},
    }
