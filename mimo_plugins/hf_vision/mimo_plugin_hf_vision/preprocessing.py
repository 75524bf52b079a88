"""How a picture becomes what the tower was trained on, as ``preprocessor_config.json`` says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from mimo_core import MimoError
from mimo_plugin_hf_vision.architecture import Architecture
from mimo_plugin_hf_vision.files import check_types
from mimo_plugin_hf_vision.options import Options, Triple, wrong_colours
from mimo_plugin_hf_vision.processors import BICUBIC, BILINEAR, FILE, SCALED_FIRST, processor_of

Size = tuple[int, int]
"""Height and width."""
_FLAGS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "default_to_square")
_TYPES: Mapping[str, Any] = {
    **dict.fromkeys(_FLAGS, bool),
    **dict.fromkeys(("size", "crop_size"), int | list[int] | dict),
    "resample": int,
    "rescale_factor": float,
}
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "do_resize": ("size", "resample"),
    "do_rescale": ("rescale_factor",),
}
"""Keys that a step needs."""
_SIDES = ("height", "width", "shortest_edge", "longest_edge", "max_height", "max_width")
_FILTERS = range(6)
"""Pillow's: nearest, Lanczos, bilinear, bicubic, box, Hamming."""


@attrs.frozen(kw_only=True)
class Preprocessing:
    """Resize, crop, scale, normalise, in this order."""

    resize: Size | int | None
    """Height and width, or the length of the shorter side; ``None``: pictures keep their size."""
    crop: Size | None
    """The middle is taken; a picture that is smaller gets a black border."""
    resample: int
    """Pillow's number of the filter."""
    scale: float
    scaled_first: bool = False
    """Scale before resizing, without rounding between."""
    mean: Triple
    std: Triple

    @property
    def size(self) -> Size:
        """Height and width that every picture ends with."""
        if self.crop is not None:
            return self.crop
        assert isinstance(self.resize, tuple)
        return self.resize


def preprocessing(tower: Architecture, options: Options) -> Preprocessing:
    """What the directory says, and the options over it.

    Raises:
        MimoError: the pictures would not all have one size, nothing says how to normalise them, a
            key is not known, or a value is none that can be read.
    """
    found = processor_of(tower.directory)
    if found is None:
        return _without_file(tower, options)
    file, kind, said = found
    check_types(file, said, _TYPES)
    for key in ("size", "crop_size"):
        if isinstance(said.get(key), dict):
            check_types(file, said[key], dict.fromkeys(_SIDES, int), at=key)
    said = {**dict.fromkeys(_FLAGS, False), **said}
    for flag, keys in _NEEDED.items():
        missing = [key for key in keys if said[flag] and key not in said]
        if missing:
            raise MimoError(
                f"{file} says {flag}, but no {', '.join(missing)}: null is no value; set it, or "
                "remove the key for the processor's default",
                code="hf-vision.missing-key",
                file=str(file),
                key=flag,
                missing=tuple(missing),
            )
    scaled_first = kind == SCALED_FIRST
    if scaled_first and said["do_center_crop"]:
        raise MimoError(
            f"{file} says do_center_crop true; hf-vision does not crop for {kind}",
            code="hf-vision.unsupported-processor",
            file=str(file),
            key="do_center_crop",
            value=True,
            processor=kind,
        )
    if scaled_first and said["do_normalize"]:
        _check_floats(file, kind, said)
    filters = (BILINEAR, BICUBIC) if scaled_first else _FILTERS
    if said["do_resize"] and said["resample"] not in filters:
        raise MimoError(
            f"{file} says resample {said['resample']}; {kind} is read with "
            f"{', '.join(map(str, filters))} (Pillow's numbers of filters)",
            code="hf-vision.unsupported-processor",
            file=str(file),
            key="resample",
            value=said["resample"],
            choices=tuple(filters),
            processor=kind,
        )
    resize, crop = _sizes(said, options, file)
    mean, std = options.mean or (0.0, 0.0, 0.0), options.std or (1.0, 1.0, 1.0)
    if said["do_normalize"]:
        mean = _triple(options.mean, said.get("image_mean"), "mean", file)
        std = _triple(options.std, said.get("image_std"), "std", file)
    return Preprocessing(
        resize=resize,
        crop=crop,
        resample=said.get("resample", BICUBIC),
        scale=float(said["rescale_factor"]) if said["do_rescale"] else 1.0,
        scaled_first=scaled_first,
        mean=mean,
        std=std,
    )


def _check_floats(file: Path, kind: str, said: Mapping[str, Any]) -> None:
    """A processor that scales first normalises what the scaling made floats."""
    if not said["do_rescale"]:
        raise MimoError(
            f"{file} says do_normalize true, but not do_rescale; {kind} normalises scaled pixels "
            "only: set do_rescale to true, or do_normalize to false",
            code="hf-vision.unsupported-processor",
            file=str(file),
            key="do_normalize",
            value=True,
            processor=kind,
        )
    if isinstance(said["rescale_factor"], int):
        raise MimoError(
            f"{file} says rescale_factor {said['rescale_factor']}, from which {kind} makes whole "
            "numbers that it cannot normalise; give it a decimal point",
            code="hf-vision.unsupported-processor",
            file=str(file),
            key="rescale_factor",
            value=said["rescale_factor"],
            processor=kind,
        )


def _without_file(tower: Architecture, options: Options) -> Preprocessing:
    """For a directory that does not say how to make pictures: the options do."""
    side = options.image_size
    return Preprocessing(
        resize=(side, side) if side else tower.image_size,
        crop=None,
        resample=BICUBIC,
        scale=1 / 255,
        mean=_triple(options.mean, None, "mean", tower.directory / FILE),
        std=_triple(options.std, None, "std", tower.directory / FILE),
    )


def _sizes(
    said: Mapping[str, Any], options: Options, file: Path
) -> tuple[Size | int | None, Size | None]:
    """What :class:`Preprocessing` has of sizes; one of them fixes the size of all pictures."""
    side = options.image_size
    crop = None
    if said.get("do_center_crop"):
        crop = _pair(said.get("crop_size"))
        if crop is None:
            raise MimoError(
                f"{file} says do_center_crop, but crop_size {said.get('crop_size')!r} is no height "
                "and width of 1 or more; set crop_size",
                code="hf-vision.invalid-value",
                file=str(file),
                key="crop_size",
                value=said.get("crop_size"),
            )
    resize = _resize(said["size"], square=said["default_to_square"]) if said["do_resize"] else None
    if side is not None:
        if resize is None or crop is None:
            return (side, side), None
        # What is cut off stays the same share of the picture.
        if isinstance(resize, int):
            return round(side * resize / min(crop)), (side, side)
        height, width = (round(side * due / cut) for due, cut in zip(resize, crop, strict=True))
        return (height, width), (side, side)
    if (said["do_resize"] and resize is None) or (crop is None and not isinstance(resize, tuple)):
        shown = {key: said[key] for key in ("do_resize", "size", "crop_size") if key in said}
        raise MimoError(
            f"{file} says {shown}, which does not give all pictures one size; set the option "
            "image_size",
            code="hf-vision.several-sizes",
            file=str(file),
            given=shown,
        )
    return resize, crop


def _resize(size: Any, *, square: bool) -> Size | int | None:
    """Height and width, or the shorter side; ``None`` for what hf-vision does not read."""
    if isinstance(size, int) and not square:
        return size if size > 0 else None
    if isinstance(size, Mapping) and size.keys() == {"shortest_edge"}:
        edge = size["shortest_edge"]
        return int(edge) if edge > 0 else None
    return _pair(size)


def _pair(size: Any) -> Size | None:
    if isinstance(size, int):
        size = [size, size]
    elif isinstance(size, Mapping):
        size = [size["height"], size["width"]] if size.keys() == {"height", "width"} else []
    if isinstance(size, list) and len(size) == 2 and min(size) > 0:
        return int(size[0]), int(size[1])
    return None


def _triple(option: Triple | None, said: Any, name: str, file: Path) -> Triple:
    if option is not None:
        return option
    if said is None:
        raise MimoError(
            f"{file} {'says no' if file.exists() else 'is not there to say the'} image_{name} of "
            f"three colours; set the option {name}",
            code="hf-vision.missing-key",
            file=str(file),
            key=f"image_{name}",
        )
    values = [said] * 3 if isinstance(said, int | float) else said
    if why := wrong_colours(values, divisor=name == "std"):
        raise MimoError(
            f"{file} says image_{name} {said!r}: {why}; set the option {name}",
            code="hf-vision.invalid-value",
            file=str(file),
            key=f"image_{name}",
            value=said,
        )
    return (float(values[0]), float(values[1]), float(values[2]))
