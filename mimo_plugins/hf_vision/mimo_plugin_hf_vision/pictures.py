"""Pictures as the tower eats them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from mimo_core import MimoError
from mimo_plugin_hf_vision.preprocessing import Preprocessing
from mimo_plugin_hf_vision.processors import BICUBIC, BILINEAR


def picture_batch(pictures: Sequence[np.ndarray], how: Preprocessing) -> dict[str, Any]:
    """All pictures of a microbatch.

    Args:
        pictures: ``B`` pictures, each uint8 ``[height, width, 3]``.

    Returns:
        ``pixel_values``: float32 ``[B, 3, *how.size]``.

    Raises:
        MimoError: a picture is not uint8 ``[height, width, 3]``.
    """
    pixels = np.stack([_cropped(picture, how) for picture in pictures])
    if not how.scaled_first:
        pixels = _scaled(pixels, how)
    mean = np.array(how.mean, dtype=np.float32)
    std = np.array(how.std, dtype=np.float32)
    values = (pixels - mean) / std
    return {"pixel_values": torch.from_numpy(values).permute(0, 3, 1, 2).contiguous()}


def _scaled(pixels: np.ndarray, how: Preprocessing) -> np.ndarray:
    """Uint8 to float32, rounded once."""
    return (pixels.astype(np.float64) * how.scale).astype(np.float32)


def _cropped(picture: np.ndarray, how: Preprocessing) -> np.ndarray:
    """``[*how.size, 3]``: uint8, or float32 where it was scaled first."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise MimoError(
            f"a picture for hf-vision is {picture.dtype} {list(picture.shape)}: expected uint8 "
            "[height, width, 3]; convert it where the dataset's Media.load decodes it",
            code="sample.wrong-medium",
            dtype=str(picture.dtype),
            shape=picture.shape,
        )
    height, width = picture.shape[:2]
    size = how.resize or (height, width)
    if isinstance(size, int):
        short = min(height, width)
        size = (size * height // short, size * width // short)
    if how.scaled_first:
        picture = _resized_floats(_scaled(picture, how), size, how.resample)
    elif size != (height, width):
        image = Image.fromarray(picture).resize(size[::-1], Image.Resampling(how.resample))
        picture = np.asarray(image)
    return picture if how.crop is None else _middle(picture, how.crop)


def _resized_floats(pixels: np.ndarray, size: tuple[int, int], resample: int) -> np.ndarray:
    """As torchvision resizes float32 ``[height, width, 3]``."""
    if size == pixels.shape[:2]:
        return pixels
    mode = {BILINEAR: "bilinear", BICUBIC: "bicubic"}[resample]
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    resized = F.interpolate(planes, size=size, mode=mode, align_corners=False, antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def _middle(picture: np.ndarray, crop: tuple[int, int]) -> np.ndarray:
    """The middle ``[*crop, 3]``, with a border of zeros where the picture is smaller."""
    borders = [max(0, due - side) for due, side in zip(crop, picture.shape[:2], strict=True)]
    # Of an odd number the larger half comes first, as in transformers.
    before = [-(-border // 2) for border in borders]
    after = [border - half for border, half in zip(borders, before, strict=True)]
    if any(borders):
        picture = np.pad(picture, [*zip(before, after, strict=True), (0, 0)])
    top, left = ((side - due) // 2 for due, side in zip(crop, picture.shape[:2], strict=True))
    return picture[top : top + crop[0], left : left + crop[1]]
