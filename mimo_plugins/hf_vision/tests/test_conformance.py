"""What the host expects of the plugin, of a tower with class tokens and of one without."""

import tempfile
from pathlib import Path

from hf_tiny import CROPPED, SQUARE, write_model

from mimo_core.testing import Conformance

FOLDER = Path(tempfile.gettempdir()) / "mimo-plugin-hf-vision"
CLIP = {"model": str(write_model(FOLDER / "clip", "clip", CROPPED)), "tokens": "all"}
SIGLIP = {"model": str(write_model(FOLDER / "siglip", "siglip", SQUARE)), "projector": "mlp"}


class TestClip(Conformance):
    plugin = "hf-vision"
    kind = "encoder"
    options = CLIP


class TestSiglip(Conformance):
    plugin = "hf-vision"
    kind = "encoder"
    options = SIGLIP
    # transformers computes the pooling head too, which no row depends on.
    flops_tolerance = 0.1
