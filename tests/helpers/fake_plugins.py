"""Plugins without torch, for tests of the pure layers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Literal

import attrs

from mimo_core import Edge, EncoderSpec, ModuleDescription, ParameterSpec, hookimpl
from mimo_core.plugins import Host

RECIPE = """\
modules:
  vision:
    plugin: eye
    grid: {tp: 2, dp: 2}
    freeze: [encoder]
    options:
      patch_size: 14
  language:
    plugin: words
    grid:
      tp: 2
      dp: 2
      ep: 4
data:
  plugin: pairs
train:
  iterations: 20
  micro_batch_size: 1
  global_batch_size: 8
  sequence_length: 64
  learning_rate: 1e-3
"""
"""Valid; tests refer to its lines by number."""


GOOD = """
mimo_contract = "1.0"
import mimo_core
@mimo_core.hookimpl
def rng_prefix(module): return "p."
"""
"""Source of a plugin that can be installed."""


@attrs.frozen(kw_only=True)
class EyeOptions:
    patch_size: int = attrs.field(default=16, validator=attrs.validators.ge(1))
    scale: float = 1.0
    size: Literal["base", "huge"] = "base"
    widths: tuple[int, ...] = ()
    threads: int = attrs.field(default=1, metadata={"changes_model": False})


def eye(**changes: Any) -> SimpleNamespace:
    """An encoder's plugin; ``changes`` replace hooks (``None`` removes one)."""

    @hookimpl
    def options_class():
        return EyeOptions

    @hookimpl
    def describe_module(module):
        return ModuleDescription(
            hidden_size=module.language_width // 2,
            num_layers=4,
            num_attention_heads=8,
            parameters=(ParameterSpec(num_parameters=632_000_000),),
            modality="image",
            count_positions=lambda media: [4] * len(media),
            supported_parallelism=frozenset({"tp", "dp"}),
            notes=("sees in grey",),
        )

    @hookimpl
    def module_edges(module, modules):
        return [
            Edge(source=module.name, target="language", placeholder=f"<{module.name}>"),
        ]

    @hookimpl
    def rng_prefix(module):
        return f"{module.name}."

    @hookimpl
    def build_submodule(module, groups, platform):
        return EncoderSpec(tower=object(), config=object())

    @hookimpl
    def provide_batch(module, samples, context):
        return {}

    return _plugin(locals(), changes)


def words(**changes: Any) -> SimpleNamespace:
    """A language model's plugin: no options, no edges."""

    @hookimpl
    def describe_module(module):
        return ModuleDescription(
            hidden_size=module.vocabulary_size,
            num_layers=6,
            num_attention_heads=8,
            num_experts=16,
            parameters=(ParameterSpec(num_parameters=30_000_000_000, component="language"),),
            supported_parallelism=frozenset({"tp", "cp", "pp", "dp", "ep"}),
            divisibility=(("groups", 4, "tp"), ("states", 48, "tp x cp")),
        )

    @hookimpl
    def rng_prefix(module):
        return "language."

    @hookimpl
    def build_submodule(module, groups, platform):
        return SimpleNamespace(module=object)

    @hookimpl
    def provide_batch(module, samples, context):
        return {}

    return _plugin(locals(), changes)


def pairs(**changes: Any) -> SimpleNamespace:
    """A dataset's plugin."""

    @hookimpl
    def build_dataset(data, split):
        return []

    return _plugin(locals(), changes)


def host(**plugins: object) -> Host:
    """A host of the three, or of others in their place."""
    return Host.from_plugins({"eye": eye(), "words": words(), "pairs": pairs()} | plugins)


def _plugin(functions: dict[str, Any], changes: dict[str, Any]) -> SimpleNamespace:
    hooks = {name: hook for name, hook in functions.items() if name != "changes"} | changes
    return SimpleNamespace(**{name: hook for name, hook in hooks.items() if hook is not None})
