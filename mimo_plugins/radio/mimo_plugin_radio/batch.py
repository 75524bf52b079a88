"""Pictures as the tower eats them: resized, normalised, and cut into patches where packed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

from mimo_core import MimoError, Sample
from mimo_plugin_radio.options import Options
from mimo_plugin_radio.sizes import Size, picture_sizes


def image_batch(pictures: Sequence[np.ndarray], options: Options) -> dict[str, Any]:
    """Fixed resolution: all pictures as squares.

    Args:
        pictures: ``B`` pictures, each uint8 ``[height, width, 3]``.

    Returns:
        ``images``: float32 ``[B, 3, image_size, image_size]``. A picture of another size is resized
        bilinearly, antialiased, its aspect ratio given up.

    Raises:
        MimoError: a picture is not uint8 ``[height, width, 3]``.
    """
    size = (options.image_side, options.image_side)
    return {"images": torch.cat([_pixels(picture, size, options) for picture in pictures])}


def packed_batch(
    samples: Sequence[Sample], pictures: Sequence[np.ndarray], options: Options
) -> dict[str, Any]:
    """Dynamic resolution: the patches of all pictures end to end.

    Args:
        samples: Their metadata say what sizes the pictures get.
        pictures: The decoded ``B`` pictures of all samples, each uint8 ``[height, width, 3]``.

    Returns:
        ``patches``: float32 ``[N, 3 * patch_size**2]``, picture after picture, patches in reading
        order, in each colour after colour; and what :func:`packed_sizes` tells of them.

    Raises:
        MimoError: a picture is not uint8 ``[height, width, 3]``, or not of the shape that its
            metadata says.
    """
    sizes = []
    for (key, shape, size), picture in zip(_sized(samples, options), pictures, strict=True):
        if picture.shape[:2] != shape:
            raise MimoError(
                f"a picture of sample {key} decodes to {list(picture.shape)}, but its metadata "
                f"says (height, width) = {shape}, from which sequence positions are counted; mend "
                "Media.shape, or let the augmentation keep the shape",
                code="sample.wrong-medium",
                sample=key,
                shape=picture.shape,
                expected=shape,
            )
        sizes.append(size)
    patches = [
        rearrange(
            _pixels(picture, size, options),
            "1 colour (row y) (column x) -> (row column) (colour y x)",
            y=options.patch_size,
            x=options.patch_size,
        )
        for picture, size in zip(pictures, sizes, strict=True)
    ]
    return {"patches": torch.cat(patches), "sizes": tuple(sizes)}


def packed_sizes(samples: Sequence[Sample], options: Options) -> dict[str, Any]:
    """Dynamic resolution: what every pipeline stage must know of the pictures.

    Returns:
        ``sizes``: height and width of each of ``B`` pictures in pixels.
    """
    return {"sizes": tuple(size for _, _, size in _sized(samples, options))}


def _sized(
    samples: Sequence[Sample], options: Options
) -> Iterator[tuple[str, tuple[int, ...], Size]]:
    """Sample key, metadata shape and size to be of every picture."""
    for sample in samples:
        shapes = [medium.shape for medium in sample.media(options.media)]
        for shape, size in zip(shapes, picture_sizes(shapes, options), strict=True):
            yield sample.key, shape, size


def _pixels(picture: np.ndarray, size: Size, options: Options) -> torch.Tensor:
    """Float32 ``[1, 3, *size]``, normalised."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise MimoError(
            f"a picture for radio is {picture.dtype} {list(picture.shape)}: expected uint8 "
            "[height, width, 3]; convert it where the dataset's Media.load decodes it",
            code="sample.wrong-medium",
            dtype=str(picture.dtype),
            shape=picture.shape,
        )
    pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
    if picture.shape[:2] != size:
        # In 8 bits, as image libraries do: ten times faster than in float32.
        pixels = F.interpolate(
            pixels, size=size, mode="bilinear", align_corners=False, antialias=True
        )
    mean = torch.tensor(options.mean).view(3, 1, 1)
    std = torch.tensor(options.std).view(3, 1, 1)
    return (pixels / 255 - mean) / std
