"""Where a module's parts are in checkpoint keys, as the core's containers put them there."""

from __future__ import annotations

from mimo_core.contract import LANGUAGE, FreezePart
from mimo_core.weight_map import Stored, WeightRule

_BELOW: dict[FreezePart, str] = {
    "encoder": "encoders.tower.",
    "projector": "input_projections.0.",
    "language": "",
}
"""See ``mimo_core.model.containers``."""


def module_prefix(name: str) -> str:
    """What a module's keys begin with (see ``mimo_core.model.mimo``)."""
    return "language_model." if name == LANGUAGE else f"modality_submodules.{name}."


def part_prefix(module: str, part: FreezePart) -> str:
    """What the keys of a module's part begin with."""
    return module_prefix(module) + _BELOW[part]


def key_of(module: str, rule: WeightRule, stored: Stored) -> str:
    """The whole key of a stored tensor."""
    return part_prefix(module, rule.part) + stored.key
