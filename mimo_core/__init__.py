"""Plugins train multimodal models whose parts each run on their own GPUs."""

from typing import TYPE_CHECKING, Any

from mimo_core.contract import (
    CONTRACT,
    LANGUAGE,
    BatchContext,
    Dataset,
    DatasetConfig,
    Edge,
    EncoderSpec,
    FlopsEstimate,
    Grid,
    MediaItem,
    ModuleConfig,
    ModuleDescription,
    ParameterSpec,
    Platform,
    Sample,
    Split,
    Text,
    TokenBatch,
    TrainingConfig,
)
from mimo_core.errors import MimoError, SampleError, suggestion
from mimo_core.plugins.config_keys import ConfigKeys
from mimo_core.plugins.hookspecs import hookimpl
from mimo_core.plugins.weight_map import (
    CheckpointTensor,
    ConstantTensor,
    ParamMapping,
    ParamMappings,
)
from mimo_core.utils.json_validation import wrong_types

if TYPE_CHECKING:
    from mimo_core.api import pretrain

__version__ = "0.1.0"

__all__ = [
    "CONTRACT",
    "LANGUAGE",
    "BatchContext",
    "CheckpointTensor",
    "ConfigKeys",
    "ConstantTensor",
    "Dataset",
    "DatasetConfig",
    "Edge",
    "EncoderSpec",
    "FlopsEstimate",
    "Grid",
    "MediaItem",
    "MimoError",
    "ModuleConfig",
    "ModuleDescription",
    "ParamMapping",
    "ParamMappings",
    "ParameterSpec",
    "Platform",
    "Sample",
    "SampleError",
    "Split",
    "Text",
    "TokenBatch",
    "TrainingConfig",
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
