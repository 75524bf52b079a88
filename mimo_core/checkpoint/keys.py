"""Where a module's parts are in checkpoint keys, as the core's containers put them there."""

from __future__ import annotations

from mimo_core.contract import LANGUAGE, FreezePart
from mimo_core.plugins.weight_map import CheckpointTensor, ParamMapping

_BELOW: dict[FreezePart, str] = {
    "encoder": "encoders.tower.",
    "projector": "input_projections.0.",
    "language": "",
}
"""See ``mimo_core.model.encoder_module``."""
_LANGUAGE = "language_model."
_ENCODERS = "modality_submodules."
OPTIMIZER = "mimo."
"""Begins the keys of the optimizer's state: ``mimo.MODULE.optimizer.state.NAME.WEIGHT``."""


def module_prefix(name: str) -> str:
    """What a module's keys begin with (see ``mimo_core.model.mimo_model``)."""
    return _LANGUAGE if name == LANGUAGE else f"{_ENCODERS}{name}."


def optimizer_prefix(name: str) -> str:
    """What the keys of a module's optimizer state begin with (see ``mimo_core.optimizer``)."""
    return f"{OPTIMIZER}{name}.optimizer."


def module_of(key: str) -> str | None:
    """The module that a key of a checkpoint belongs to; ``None`` where it is of the whole run."""
    if key.startswith(_LANGUAGE):
        return LANGUAGE
    for prefix in (_ENCODERS, OPTIMIZER):
        if key.startswith(prefix):
            return key.removeprefix(prefix).partition(".")[0]
    return None


def part_prefix(module: str, part: FreezePart) -> str:
    """What the keys of a module's part begin with."""
    return module_prefix(module) + _BELOW[part]


def key_of(module: str, rule: ParamMapping, stored: CheckpointTensor) -> str:
    """The whole key of a stored tensor."""
    return part_prefix(module, rule.component) + stored.key
