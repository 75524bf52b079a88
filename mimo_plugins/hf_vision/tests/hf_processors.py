"""Image processors of transformers against ours: every key deleted, every key changed."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from hf_tiny import tiny_module
from mimo_plugin_hf_vision.architecture import architecture
from mimo_plugin_hf_vision.pictures import picture_batch
from mimo_plugin_hf_vision.preprocessing import preprocessing
from mimo_plugin_hf_vision.processors import _OF_MODEL, DEFAULTS, READ, SCALED_FIRST
from PIL import Image
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

from mimo_core import MimoError

HAS_TORCHVISION = importlib.util.find_spec("torchvision") is not None
KINDS = [kind for kind in DEFAULTS if kind != SCALED_FIRST or HAS_TORCHVISION]
"""transformers has ``SCALED_FIRST`` with torchvision only."""
Fault = str

_SHAPES = ((31, 47), (64, 20), (16, 16), (7, 9), (1, 40), (40, 1), (1, 1), (200, 3))
"""Height and width: odd ratios, smaller than a crop, one pixel thin."""

_FLAGS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "do_pad")
CHANGES: dict[str, list[Any]] = {
    **{key: [True, False, None] for key in _FLAGS},
    "default_to_square": [True, False, None],
    "size": [
        *(20, [18, 24], {"height": 18, "width": 24}, {"shortest_edge": 20}, {"longest_edge": 20}),
        *({"shortest_edge": 18, "longest_edge": 30}, {"max_height": 20, "max_width": 18}),
        *({"height": 18}, {"height": 0, "width": 18}, {"min_pixels": 64, "max_pixels": 400}, {}),
        *({"height": 12, "width": 40}, {"shortest_edge": 10}, 0, None),
    ],
    "crop_size": [
        *(12, [12, 20], {"height": 12, "width": 15}, {"height": 33, "width": 17}),
        *({"shortest_edge": 12}, {"height": 40, "width": 41}, None),
    ],
    "resample": [0, 1, 2, 3, 4, 5, 7, -1, None],
    "rescale_factor": [0, 1, 1 / 127.5, 0.00392156862745098, None],
    "image_mean": [0.5, [0.1, 0.2, 0.3], [0.5, 0.5], 0, None],
    "image_std": [0.5, [0.1, 0.2, 0.3], [0.5, 0.5], None],
    "pad_size": [{"height": 80, "width": 80}, None],
    "data_format": ["channels_first", "channels_last", None],
    "input_data_format": ["channels_first", "channels_last", None],
    "device": ["cpu", None],
    "return_tensors": ["np", None],
    "disable_grouping": [True, None],
    "image_seq_length": [256, None],
}
"""Values of each key that transformers' processors have."""
_AUTO = ("image_processor_type", "feature_extractor_type", "image_processor")
"""What says which class and file transformers takes."""
_FOREIGN: dict[str, Any] = {
    "image_grid_pinpoints": [[336, 672]],
    "max_image_tiles": 4,
    "do_image_splitting": True,
    "do_pan_and_scan": False,
    "offset": True,
    "rescale_offset": 0.5,
    "do_flip_channel_order": True,
    "do_reduce_labels": True,
    "use_square_size": True,
    "size_divisor": 32,
    "crop_pct": 0.9,
    "min_pixels": 3136,
}
"""Keys of other processors."""


def processor_faults(folder: Path) -> dict[str, Any]:
    """What differs, what was refused by which key, and what the tables have otherwise."""
    faults: list[Fault] = []
    refused: dict[str, list[str]] = {}
    equal = 0
    for kind in KINDS:
        for key, files in _variants(kind):
            fault, was_refused = _compare(folder, kind, files, key)
            if fault:
                faults.append(f"{kind} {key}: {fault}")
            if was_refused:
                refused.setdefault(key, []).append(json.dumps(files))
            equal += not fault and not was_refused
    return {
        "faults": faults,
        "refused": sorted(refused),
        "equal": equal,
        "tables": list(_tables()),
    }


def _small(kind: str) -> dict[str, Any]:
    """A file with every key that the class reads, of small pictures."""
    small = {**DEFAULTS[kind], "image_processor_type": kind}
    if kind != SCALED_FIRST:
        small["do_center_crop"] = True
    shortest = "shortest_edge" in small["size"]
    size = {"shortest_edge": 18} if shortest else {"height": 18, "width": 20}
    return {**small, "size": size, "crop_size": {"height": 16, "width": 15}}


def _variants(kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The key that is tried, and files of the directory by their names."""
    name = "preprocessor_config.json"
    small = _small(kind)
    plain = {key: value for key, value in small.items() if "crop" not in key}
    cls = _class(kind)
    for base, keys in (
        (small, None),
        (plain, ("size", "crop_size", "do_center_crop", "do_resize")),
    ):
        for key in keys or base:
            yield key, {name: {other: base[other] for other in base if other != key}}
        for key in keys or cls.valid_kwargs.__annotations__:
            for value in CHANGES.get(key, ["a new key of transformers: add values for it"]):
                yield key, {name: {**base, key: value}}
    for key, value in _FOREIGN.items():
        yield key, {name: {**small, key: value}}
    fast = {**small, "image_processor_type": f"{kind}Fast"}
    old = {key: value for key, value in small.items() if key != "image_processor_type"}
    old["feature_extractor_type"] = kind.replace("ImageProcessor", "FeatureExtractor")
    other = {**small, "size": {"height": 33, "width": 35}, "crop_size": 9}
    yield "image_processor_type", {name: fast}
    yield "feature_extractor_type", {name: old}
    yield "image_processor", {name: other, "processor_config.json": {"image_processor": small}}
    yield "image_processor", {name: small, "processor_config.json": {"processor_class": "P"}}


def _class(kind: str) -> Any:
    return getattr(transformers, kind if kind == SCALED_FIRST else f"{kind}Pil")


def _compare(folder: Path, kind: str, files: dict[str, Any], key: str) -> tuple[Fault | None, bool]:
    """What is wrong, and whether ours refuses the files."""
    (folder / "processor_config.json").unlink(missing_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    generator = np.random.default_rng(1)
    pictures = [generator.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in _SHAPES]
    options = tiny_module(folder).options
    try:
        how = preprocessing(architecture(options), options)
    except MimoError as error:
        # ``size`` may be wrong by what another key makes of it.
        named = key in str(error) or ("size" in str(error) and key in READ)
        return (None if named else f"refused without its key: {error}"), True
    ours = picture_batch(pictures, how)["pixel_values"]
    try:
        processor = (
            transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
            if key in _AUTO
            else _class(kind)(**files["preprocessor_config.json"])
        )
        due = processor([Image.fromarray(one) for one in pictures], return_tensors="pt")
    except Exception as error:
        return f"read, but transformers refuses: {type(error).__name__}: {error}"[:200], False
    pixels = due["pixel_values"]
    if ours.shape != pixels.shape:
        return f"{tuple(ours.shape)}, transformers {tuple(pixels.shape)}: {files}", False
    gap = float((ours - pixels).abs().max())
    # The same operations of numpy and Pillow; torchvision rounds twice, at values to 5.
    most = 2e-6 if kind == SCALED_FIRST else 0
    return (f"pixels differ by {gap}: {files}" if gap > most else None), False


def _tables() -> Iterator[str]:
    """Where the tables differ from transformers."""
    for kind in KINDS:
        cls = _class(kind)
        for key in sorted({*READ, "do_pad"} | set(cls.valid_kwargs.__annotations__) - {*CHANGES}):
            due, ours = getattr(cls, key, None), DEFAULTS[kind].get(key)
            if json.dumps(due) != json.dumps(ours):
                yield f"{kind}.{key}: {ours}, transformers {due}"
    for model, kind in _OF_MODEL.items():
        names = IMAGE_PROCESSOR_MAPPING_NAMES.get(model)
        # A tower of its own has no processor in transformers: its family's is taken.
        if names is not None and kind not in names.values():
            yield f"{model}: {kind}, transformers {names}"
