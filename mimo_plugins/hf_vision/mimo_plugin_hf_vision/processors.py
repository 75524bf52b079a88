"""What is known of transformers' image processors without transformers: which keys of their files
change pixels, and the values of keys that a file leaves out.

The tests compare all of it with the classes of transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mimo_core import MimoError
from mimo_plugin_hf_vision.files import read_json

FILE = "preprocessor_config.json"
_WHOLE = "processor_config.json"
_OPENAI = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
_HALF = ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
_IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
BILINEAR, BICUBIC = 2, 3
"""Pillow's numbers of filters."""


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def _defaults(
    colours: tuple[list[float], list[float]], size: Any, resample: int, **others: Any
) -> dict[str, Any]:
    every = {"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255}
    mean, std = colours
    return {
        **every,
        "default_to_square": True,
        "image_mean": mean,
        "image_std": std,
        "size": size,
        "resample": resample,
        **others,
    }


_CROPS = {"do_center_crop": True, "crop_size": _square(224)}
_SHORTEST = {"shortest_edge": 224}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "SiglipImageProcessor": _defaults(_HALF, _square(224), BICUBIC, default_to_square=False),
    "CLIPImageProcessor": _defaults(_OPENAI, _SHORTEST, BICUBIC, default_to_square=False, **_CROPS),
    "BitImageProcessor": _defaults(_OPENAI, _SHORTEST, BICUBIC, default_to_square=False, **_CROPS),
    "LlavaImageProcessor": _defaults(
        _OPENAI, _SHORTEST, BICUBIC, default_to_square=False, do_pad=False, **_CROPS
    ),
    "ViTImageProcessor": _defaults(_HALF, _square(224), BILINEAR),
    "DeiTImageProcessor": _defaults(_HALF, _square(256), BICUBIC, **_CROPS),
    "DINOv3ViTImageProcessor": _defaults(_IMAGENET, _square(224), BILINEAR),
}
"""By the class: what it does where its file has no such key."""

SCALED_FIRST = "DINOv3ViTImageProcessor"
"""Scales pixels before it resizes them, so that nothing is rounded between."""

_OF_MODEL: Mapping[str, str] = {
    **dict.fromkeys(("siglip", "siglip_vision_model"), "SiglipImageProcessor"),
    **dict.fromkeys(("clip", "clip_vision_model"), "CLIPImageProcessor"),
    **dict.fromkeys(("dinov2", "dinov2_with_registers"), "BitImageProcessor"),
    **dict.fromkeys(("vit", "ijepa"), "ViTImageProcessor"),
    "deit": "DeiTImageProcessor",
    "dinov3_vit": "DINOv3ViTImageProcessor",
    "llava": "LlavaImageProcessor",
}
"""By the ``model_type`` of ``config.json``, where no file names a class."""

READ = frozenset(
    {
        *("do_resize", "size", "resample", "default_to_square", "do_center_crop", "crop_size"),
        *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"),
    }
)
"""Keys that say what becomes of a picture."""

ONLY: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "do_pad": ((False,), "hf-vision does not pad pictures"),
    "data_format": (("channels_first",), "the tower reads channels first"),
    "input_data_format": (("channels_last",), "samples have channels last"),
}
"""Keys of which one value is read, and why."""

WITHOUT_EFFECT = frozenset(
    {
        # Samples hold RGB pictures, so there is nothing to convert.
        "do_convert_rgb",
        # Without do_pad.
        "pad_size",
        # Where and how transformers computes, and what it returns besides pixels.
        *("device", "return_tensors", "disable_grouping", "image_seq_length", "use_fast"),
        # Names.
        *("image_processor_type", "feature_extractor_type", "processor_class", "auto_map"),
        *("_valid_processor_keys", "_name_or_path", "transformers_version"),
    }
)
"""Keys that change no pixel."""


def processor_of(directory: Path) -> tuple[Path, str, dict[str, Any]] | None:
    """The processor of a model's directory, chosen as transformers chooses it.

    Returns:
        The file, the class without ``Fast`` or ``Pil``, and the values of ``READ`` with the
        class's defaults, without those that are null: transformers takes null for no value, not
        for the default; ``None`` where no file describes a processor of images.

    Raises:
        MimoError: a file cannot be read; the class is not known; a key or its value is none that
            hf-vision reads.
    """
    found = _find(directory)
    if found is None:
        return None
    file, values = found
    kind = _kind(file, values)
    known = sorted({*READ, *ONLY, *WITHOUT_EFFECT})
    for key, value in values.items():
        if value is None:
            continue
        if key not in known:
            raise MimoError(
                f"{file} says {key} {_shown(value)}, which hf-vision does not know; remove the key "
                f"if pixels do not depend on it (it knows {', '.join(sorted({*READ, *ONLY}))})",
                code="hf-vision.unsupported-processor",
                file=str(file),
                key=key,
                value=value,
            )
        if key in ONLY and value not in ONLY[key][0]:
            only, why = ONLY[key]
            raise MimoError(
                f"{file} says {key} {_shown(value)}, but {why}; set it to "
                f"{' or '.join(map(_shown, only))} if that is what the tower was trained on",
                code="hf-vision.unsupported-processor",
                file=str(file),
                key=key,
                value=value,
                choices=tuple(only),
            )
    used = {**DEFAULTS[kind], **{key: values[key] for key in READ if key in values}}
    return file, kind, {k: v for k, v in used.items() if k in READ and v is not None}


def torchvision_class(directory: Path) -> tuple[Path, str] | None:
    """The file and its class, where that is one of torchvision's by its name."""
    found = _find(directory)
    if found is None:
        return None
    file, values = found
    name = values.get("image_processor_type")
    return (file, name) if isinstance(name, str) and name.endswith("Fast") else None


def _find(directory: Path) -> tuple[Path, dict[str, Any]] | None:
    """The file that transformers reads, and its part on images."""
    whole = directory / _WHOLE
    if whole.exists():
        nested = read_json(whole).get("image_processor")
        if isinstance(nested, dict):
            return whole, nested
    file = directory / FILE
    return (file, read_json(file)) if file.exists() else None


def _kind(file: Path, values: Mapping[str, Any]) -> str:
    config = read_json(file.parent / "config.json")
    old = values.get("feature_extractor_type")
    name = (
        values.get("image_processor_type")
        or (old.replace("FeatureExtractor", "ImageProcessor") if isinstance(old, str) else None)
        or config.get("image_processor_type")
    )
    if name is None:
        model = config.get("model_type")
        if model not in _OF_MODEL:
            raise MimoError(
                f"{file} says no image_processor_type, and of model_type {model!r} it is not known "
                f"which one reads pictures; add one of {', '.join(DEFAULTS)}",
                code="hf-vision.missing-key",
                file=str(file),
                key="image_processor_type",
                model_type=model,
            )
        return _OF_MODEL[model]
    kind = str(name).removesuffix("Fast").removesuffix("Pil")
    if kind not in DEFAULTS:
        raise MimoError(
            f"{file}: hf-vision does not read pictures as {name} does; it reads "
            f"{', '.join(DEFAULTS)}: set image_processor_type to one of them if it makes the "
            "pixels that the tower was trained on",
            code="hf-vision.unsupported-processor",
            file=str(file),
            key="image_processor_type",
            value=name,
        )
    return kind


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
