"""What the host expects of the plugin, of voices that the test makes."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from spoken_tones import make_voice

from mimo_core.testing import Conformance


class TestSpokenDigits(Conformance):
    plugin = "spoken-digits"
    kind = "dataset"
    options: ClassVar[dict[str, Any]] = {"seconds": 0.3}
    looked_at = 20

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def voice(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        """A directory of recordings, which the options name."""
        folder = tmp_path_factory.mktemp("voices") / "tones"
        cls.options = {**cls.options, "voices": [make_voice(folder)]}
