"""Pictures as the tower eats them: one size, normalised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from mimo_plugin_radio.options import Options


def image_batch(pictures: Sequence[np.ndarray], options: Options) -> torch.Tensor:
    """Float32 ``[B, 3, image_size, image_size]`` of ``B`` pictures, each uint8 ``[h, w, 3]``.

    A picture of another size is resized bilinearly, antialiased, its aspect ratio given up.

    Raises:
        ValueError: a picture is not uint8 ``[h, w, 3]``.
    """
    pixels = torch.cat([_square(picture, options.image_size) for picture in pictures])
    mean = torch.tensor(options.mean).view(3, 1, 1)
    std = torch.tensor(options.std).view(3, 1, 1)
    return (pixels / 255 - mean) / std


def _square(picture: np.ndarray, side: int) -> torch.Tensor:
    """Float32 ``[1, 3, side, side]``, 0 to 255."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(
            f"a picture for radio is {picture.dtype} {list(picture.shape)}: expected uint8 "
            "[height, width, 3]; convert it where the dataset's Media.load decodes it"
        )
    pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float()
    if picture.shape[:2] == (side, side):
        return pixels
    return F.interpolate(
        pixels, size=(side, side), mode="bilinear", align_corners=False, antialias=True
    )
