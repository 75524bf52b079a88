"""Writes files of captions and pictures, and reads them by the plugin."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from mimo_plugin_captions import plugin
from mimo_plugin_captions.options import Options
from PIL import Image

from mimo_core import DatasetConfig, MediaItem, Sample, Split, Text


def write_lines(file: Path, lines: Iterable[dict[str, Any] | str]) -> Path:
    """A JSONL file; a text is written as it is."""
    told = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in told))
    return file


def plain_lines(count: int) -> list[dict[str, Any]]:
    return [{"id": f"plain-{number}", "text": f"text {number}"} for number in range(count)]


def write_picture(path: Path, height: int, width: int, seed: int = 0, **how: Any) -> np.ndarray:
    """Noise, as uint8 ``[height, width, 3]``, in the format of the suffix."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **how)
    return pixels


def cut(path: Path) -> None:
    """Leave the second half of a file out."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def dataset(file: Path, split: Split = "train", **options: Any) -> Any:
    data = DatasetConfig(plugin="captions", options=Options(file=str(file), **options))
    return plugin.build_dataset(data, split)


def samples(file: Path, **options: Any) -> list[Sample]:
    """Those of both splits, in the order of the file."""
    found = [
        sample for split in ("train", "validation") for sample in dataset(file, split, **options)
    ]
    return sorted(found, key=lambda sample: int(sample.key.rpartition(":")[2]))


def preview(file: Path, **options: Any) -> list[Sample]:
    """What the plan is shown."""
    data = DatasetConfig(plugin="captions", options=Options(file=str(file), **options))
    return list(plugin.preview_samples(data))


def said(sample: Sample) -> str:
    """The texts of a sample, learned ones in brackets; ``#`` for an image."""
    words = []
    for part in sample.content:
        assert isinstance(part, Text | MediaItem)
        words.append(
            "#"
            if isinstance(part, MediaItem)
            else f"[{part.text}]"
            if part.is_target
            else part.text
        )
    return " ".join(words)
