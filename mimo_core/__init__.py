"""Plugins train multimodal models whose parts each run on their own GPUs."""

from typing import TYPE_CHECKING, Any

from mimo_core.contract import (
    CONTRACT,
    LANGUAGE,
    BatchContext,
    Data,
    Dataset,
    Description,
    Edge,
    Encoder,
    Flops,
    Grid,
    Media,
    Module,
    Platform,
    Sample,
    Sequences,
    Split,
    Text,
    Train,
    Weights,
)
from mimo_core.errors import MimoError, SampleError, suggestion
from mimo_core.plugins.config_keys import ConfigKeys
from mimo_core.plugins.hookspecs import hookimpl
from mimo_core.plugins.weight_map import Constant, Stored, WeightMap, WeightRule
from mimo_core.utils.json_validation import wrong_types

if TYPE_CHECKING:
    from mimo_core.api import pretrain

__version__ = "0.1.0"

__all__ = [
    "CONTRACT",
    "LANGUAGE",
    "BatchContext",
    "ConfigKeys",
    "Constant",
    "Data",
    "Dataset",
    "Description",
    "Edge",
    "Encoder",
    "Flops",
    "Grid",
    "Media",
    "MimoError",
    "Module",
    "Platform",
    "Sample",
    "SampleError",
    "Sequences",
    "Split",
    "Stored",
    "Text",
    "Train",
    "WeightMap",
    "WeightRule",
    "Weights",
    "hookimpl",
    "pretrain",
    "suggestion",
    "wrong_types",
]


def __getattr__(name: str) -> Any:
    """What a plugin does not need is imported when it is asked for."""
    if name == "pretrain":
        from mimo_core.api import pretrain

        return pretrain
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
