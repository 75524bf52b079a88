"""What the host expects of the plugin."""

from typing import ClassVar

from mimo_core.testing import Conformance


class TestDigits(Conformance):
    plugin = "digits"
    kind = "dataset"
    options: ClassVar = {"size": 8}
