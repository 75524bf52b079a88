"""Pictures as the tower eats them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from mimo_plugin_hf_vision.preprocessing import Preprocessing


def picture_batch(pictures: Sequence[np.ndarray], how: Preprocessing) -> dict[str, Any]:
    """All pictures of a microbatch.

    Args:
        pictures: ``B`` pictures, each uint8 ``[height, width, 3]``.

    Returns:
        ``pixel_values``: float32 ``[B, 3, *how.size]``.

    Raises:
        ValueError: a picture is not uint8 ``[height, width, 3]``.
    """
    pixels = np.stack([_cropped(picture, how) for picture in pictures])
    mean = np.array(how.mean, dtype=np.float32)
    std = np.array(how.std, dtype=np.float32)
    values = (pixels.astype(np.float32) * np.float32(how.scale) - mean) / std
    return {"pixel_values": torch.from_numpy(values).permute(0, 3, 1, 2).contiguous()}


def _cropped(picture: np.ndarray, how: Preprocessing) -> np.ndarray:
    """Uint8 ``[*how.size, 3]``."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(
            f"a picture for hf-vision is {picture.dtype} {list(picture.shape)}: expected uint8 "
            "[height, width, 3]; convert it where the dataset's Media.load decodes it"
        )
    height, width = picture.shape[:2]
    if isinstance(how.resize, int):
        short = min(height, width)
        size = (how.resize * height // short, how.resize * width // short)
    else:
        size = how.resize
    if size != (height, width):
        image = Image.fromarray(picture).resize(size[::-1], Image.Resampling(how.resample))
        picture = np.asarray(image)
    if how.crop is None:
        return picture
    top, left = (size[0] - how.crop[0]) // 2, (size[1] - how.crop[1]) // 2
    return picture[top : top + how.crop[0], left : left + how.crop[1]]
