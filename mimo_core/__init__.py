"""Plugins train multimodal models whose parts each run on their own GPUs."""

from mimo_core.contract import (
    LANGUAGE,
    BatchContext,
    Data,
    Dataset,
    Description,
    Edge,
    Encoder,
    Grid,
    Media,
    Module,
    Platform,
    Sample,
    Sequences,
    Split,
    Text,
    Train,
)
from mimo_core.hookspecs import hookimpl

__version__ = "0.1.0"

__all__ = [
    "LANGUAGE",
    "BatchContext",
    "Data",
    "Dataset",
    "Description",
    "Edge",
    "Encoder",
    "Grid",
    "Media",
    "Module",
    "Platform",
    "Sample",
    "Sequences",
    "Split",
    "Text",
    "Train",
    "hookimpl",
]
