"""How a picture becomes what the tower was trained on, as ``preprocessor_config.json`` says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from mimo_core import MimoError
from mimo_plugin_hf_vision import families
from mimo_plugin_hf_vision.architecture import Architecture
from mimo_plugin_hf_vision.files import check_types, read_json
from mimo_plugin_hf_vision.options import Options, Triple, wrong_colours

Size = tuple[int, int]
"""Height and width."""
_FILE = "preprocessor_config.json"
_TYPES: Mapping[str, Any] = {
    **dict.fromkeys(("do_resize", "do_center_crop", "do_rescale", "do_normalize"), bool),
    **dict.fromkeys(("size", "crop_size"), int | dict),
    "resample": int,
    "rescale_factor": float,
}
_SIDES = dict.fromkeys(("height", "width", "shortest_edge", "longest_edge"), int)


@attrs.frozen(kw_only=True)
class Preprocessing:
    """Resize, crop, scale, normalise, in this order."""

    resize: Size | int
    """Height and width, or the length of the shorter side."""
    crop: Size | None
    """The middle is taken."""
    resample: int
    """Pillow's number of the filter."""
    scale: float
    mean: Triple
    std: Triple

    @property
    def size(self) -> Size:
        """Height and width that every picture ends with."""
        if self.crop is not None:
            return self.crop
        assert not isinstance(self.resize, int)
        return self.resize


def preprocessing(tower: Architecture, options: Options) -> Preprocessing:
    """What the directory says, and the options over it.

    Raises:
        MimoError: the pictures would not all have one size, nothing says how to normalise them, or
            a value is none that can be read.
    """
    file, said = _said(tower.directory)
    check_types(file, said, _TYPES)
    for key in ("size", "crop_size"):
        if isinstance(said.get(key), dict):
            check_types(file, said[key], _SIDES, at=key)
    resize, crop = _sizes(said, options, tower, file)
    if said.get("do_normalize", True):
        mean = _triple(options.mean, said.get("image_mean"), "mean", file)
        std = _triple(options.std, said.get("image_std"), "std", file)
    else:
        mean, std = options.mean or (0.0, 0.0, 0.0), options.std or (1.0, 1.0, 1.0)
    return Preprocessing(
        resize=resize,
        crop=crop,
        resample=_resample(said, tower.model_type),
        scale=float(said.get("rescale_factor") or 1 / 255) if said.get("do_rescale", True) else 1.0,
        mean=mean,
        std=std,
    )


def _resample(said: Mapping[str, Any], model_type: str) -> int:
    held = said.get("resample")
    return families.RESAMPLE.get(model_type, families.BICUBIC) if held is None else int(held)


def _said(directory: Path) -> tuple[Path, dict[str, Any]]:
    """The processor's file and what it says of images; empty where there is none."""
    if (directory / _FILE).exists():
        return directory / _FILE, read_json(directory / _FILE)
    whole = directory / "processor_config.json"
    images = read_json(whole).get("image_processor") if whole.exists() else None
    return (whole, images) if isinstance(images, dict) else (directory / _FILE, {})


def _sizes(
    said: Mapping[str, Any], options: Options, tower: Architecture, file: Path
) -> tuple[Size | int, Size | None]:
    side = options.image_size
    if not said:
        return ((side, side) if side else tower.image_size), None
    crop = _pair(said.get("crop_size")) if said.get("do_center_crop", "crop_size" in said) else None
    resize = _resize(said.get("size"), cropped=crop is not None)
    if not said.get("do_resize", True):
        resize = None
    if side is not None:
        if isinstance(resize, int) and crop is not None:
            # What is cut off stays the same share of the picture.
            return round(side * resize / min(crop)), (side, side)
        return (side, side), None
    if resize is None or (isinstance(resize, int) and (crop is None or resize < max(crop))):
        shown = {key: said[key] for key in ("do_resize", "size", "crop_size") if key in said}
        raise MimoError(
            f"{file} says {shown}, which does not give all pictures one size; set the option "
            "image_size"
        )
    return resize, crop


def _resize(size: Any, *, cropped: bool) -> Size | int | None:
    """Height and width, or the shorter side; ``None`` for what gives no fixed size."""
    if isinstance(size, int):
        # Files of before transformers 4.26: with a crop, the shorter side.
        return size if cropped else (size, size)
    if isinstance(size, Mapping):
        if size.get("height") and size.get("width"):
            return int(size["height"]), int(size["width"])
        if size.get("shortest_edge") and not size.get("longest_edge"):
            return int(size["shortest_edge"])
    return None


def _pair(size: Any) -> Size | None:
    if isinstance(size, int):
        return size, size
    if isinstance(size, Mapping) and size.get("height") and size.get("width"):
        return int(size["height"]), int(size["width"])
    return None


def _triple(option: Triple | None, said: Any, name: str, file: Path) -> Triple:
    if option is not None:
        return option
    if said is None:
        raise MimoError(
            f"{file} {'says no' if file.exists() else 'is not there to say the'} image_{name} of "
            f"three colours; set the option {name}"
        )
    values = [said] * 3 if isinstance(said, int | float) else said
    if why := wrong_colours(values, divisor=name == "std"):
        raise MimoError(f"{file} says image_{name} {said!r}: {why}; set the option {name}")
    return (float(values[0]), float(values[1]), float(values[2]))
