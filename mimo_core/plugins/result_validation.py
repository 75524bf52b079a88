"""What a hook may answer, as far as it can be told without torch."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from mimo_core.contract import (
    Dataset,
    Edge,
    EncoderSpec,
    FlopsEstimate,
    ModuleConfig,
    ModuleDescription,
    Sample,
)
from mimo_core.plugins.weight_map import ParamMappings

MAY_BE_NONE = frozenset({"provide_batch"})
"""Hooks whose answer ``None`` has a meaning."""


def expected(hook: str, arguments: Mapping[str, Any], answer: object) -> str | None:
    """What was due instead of ``answer``, or ``None`` when the answer fits."""
    due, fits = _CHECKS[hook]
    if hook == "build_submodule":
        due = "Encoder" if _for_encoder(arguments) else "ModuleSpec of the language model"
    return None if fits(answer, arguments) else due


def due_answer(hook: str) -> str:
    """What a hook must answer, in words."""
    return _CHECKS[hook][0]


def shown(value: object) -> str:
    """A value in a message: its text, cut where long, and its type."""
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"


DUE_POSITIONS = (
    "one whole number for each medium of the sample, in their order: "
    "positions=lambda media: [256 for _ in media]"
)
"""What ``describe_module().count_positions`` is and answers, in words."""


def counts_of(answer: object) -> list[int] | None:
    """What ``describe_module().count_positions`` answered; ``None`` where these are no counts."""
    if isinstance(answer, str | bytes | Mapping) or not isinstance(answer, Iterable):
        return None
    counts = list(answer)
    if not all(hasattr(one, "__index__") and not isinstance(one, bool) for one in counts):
        return None
    numbers = [operator.index(one) for one in counts]
    return numbers if min(numbers, default=0) >= 0 else None


def _for_encoder(arguments: Mapping[str, Any]) -> bool:
    module = arguments.get("module")
    return isinstance(module, ModuleConfig) and not module.is_language


def _is_options_class(answer: object, _: Mapping[str, Any]) -> bool:
    return isinstance(answer, type) and attrs.has(answer)


def _sequence_of(kind: type) -> Callable[[object, Mapping[str, Any]], bool]:
    def fits(answer: object, _: Mapping[str, Any]) -> bool:
        return (
            isinstance(answer, Sequence)
            and not isinstance(answer, str)
            and all(isinstance(one, kind) for one in answer)
        )

    return fits


def _is_submodule(answer: object, arguments: Mapping[str, Any]) -> bool:
    if _for_encoder(arguments):
        return isinstance(answer, EncoderSpec)
    return not isinstance(answer, EncoderSpec) and hasattr(answer, "module")


_CHECKS: dict[str, tuple[str, Callable[[Any, Mapping[str, Any]], bool]]] = {
    "options_class": ("attrs class", _is_options_class),
    "describe_module": (
        "ModuleDescription",
        lambda answer, _: isinstance(answer, ModuleDescription),
    ),
    "module_edges": ("sequence of Edge", _sequence_of(Edge)),
    "rng_prefix": ("str", lambda answer, _: isinstance(answer, str)),
    "build_submodule": ("Encoder or ModuleSpec", _is_submodule),
    "provide_batch": (
        "dict or None",
        lambda answer, _: answer is None or isinstance(answer, dict),
    ),
    "estimate_flops": ("sequence of FlopsEstimate", _sequence_of(FlopsEstimate)),
    "param_mappings": ("ParamMappings", lambda answer, _: isinstance(answer, ParamMappings)),
    "preview_samples": ("sequence of Sample", _sequence_of(Sample)),
    "preview_notes": ("sequence of str", _sequence_of(str)),
    "build_dataset": ("Dataset", lambda answer, _: isinstance(answer, Dataset)),
}
