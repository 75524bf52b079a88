"""What the host expects of the plugin."""

from mimo_core.testing import Conformance


class TestDigits(Conformance):
    plugin = "digits"
    kind = "dataset"
    options = {"size": 8}  # noqa: RUF012
