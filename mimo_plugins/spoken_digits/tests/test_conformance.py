"""What the host expects of the plugin."""

import tempfile
from pathlib import Path
from typing import Any, ClassVar

from spoken_tones import make_voice

from mimo_core.testing import Conformance

FOLDER = Path(tempfile.gettempdir()) / "mimo-plugin-spoken-digits"


class TestSpokenDigits(Conformance):
    plugin = "spoken-digits"
    kind = "dataset"
    options: ClassVar[dict[str, Any]] = {"size": 8, "seconds": 0.4, "voices": [make_voice(FOLDER)]}
