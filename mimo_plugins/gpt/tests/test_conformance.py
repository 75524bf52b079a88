"""What the host expects of the plugin: a dense model with tied embeddings, and a mixture."""

from gpt_modules import FAMILIES

from mimo_core.testing import Conformance

OF_GPUS = {"moe_permute_fusion": True, "apply_rope_fusion": True}
"""Not read without TransformerEngine."""


class TestDense(Conformance):
    plugin = "gpt"
    kind = "language"
    options = FAMILIES["qwen2"] | {"layers": 2, "vocabulary_size": 320}


class TestExperts(Conformance):
    plugin = "gpt"
    kind = "language"
    options = FAMILIES["qwen3_moe"] | {"layers": 1, "vocabulary_size": 320}
    megatron = OF_GPUS
