"""What the host expects of the plugin, around an encoder and around a language model."""

from typing import Any, ClassVar

from mimo_core.testing import Conformance, Subject


class Radio(Subject):
    plugin = "radio"
    kind = "encoder"
    options: ClassVar[dict[str, Any]] = {
        "hidden_size": 16,
        "layers": 1,
        "heads": 2,
        "image_size": 16,
        "patch_size": 4,
        "max_image_size": 32,
    }


class Nemotron(Subject):
    plugin = "nemotron"
    kind = "language"
    options: ClassVar[dict[str, Any]] = {
        "pattern": "M*-",
        "hidden_size": 32,
        "mamba_head_dim": 8,
        "mamba_state": 4,
        "vocabulary_multiple": 16,
    }


class TestAroundAnEncoder(Conformance):
    plugin = "lora"
    kind = "wrapper"
    options: ClassVar[dict[str, Any]] = {"targets": ["*linear_*"], "rank": 2}
    wraps = Radio


class TestAroundALanguageModel(Conformance):
    plugin = "lora"
    kind = "wrapper"
    options: ClassVar[dict[str, Any]] = {"targets": ["*linear_*"], "rank": 2}
    wraps = Nemotron
