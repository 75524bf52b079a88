"""The conformance kit, and functions run on real ranks: for tests of plugins and of the core."""

import importlib
from typing import TYPE_CHECKING, Any

from mimo_core.testing.conformance_case import Subject
from mimo_core.testing.ranks import RankFailure, run_ranks

if TYPE_CHECKING:
    from mimo_core.testing.conformance import Conformance
    from mimo_core.testing.expected_errors import raises_code
    from mimo_core.testing.weights import gradients_as_in_files, read_parts, tensors_as_in_files

__all__ = [
    "Conformance",
    "RankFailure",
    "Subject",
    "gradients_as_in_files",
    "raises_code",
    "read_parts",
    "run_ranks",
    "tensors_as_in_files",
]

_LATER = {
    "Conformance": "conformance",
    "gradients_as_in_files": "weights",
    "raises_code": "expected_errors",
    "read_parts": "weights",
    "tensors_as_in_files": "weights",
}
"""What needs pytest or torch, which the rest does not; by the module that has it."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
