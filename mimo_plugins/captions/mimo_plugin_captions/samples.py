"""A caption as a sample: images with their sizes, pixels only when they are asked for."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mimo_core import MediaItem, MimoError, Sample, Text
from mimo_plugin_captions.captions import Caption
from mimo_plugin_captions.errors import Broken, shown
from mimo_plugin_captions.image_files import regular_file
from mimo_plugin_captions.options import Options
from mimo_plugin_captions.pictures import decode, shape_of

if TYPE_CHECKING:
    import numpy as np


def sample_of(caption: Caption, line: int, options: Options) -> Sample:
    """The sample of the caption at ``line``; reads the headers of its images.

    Raises:
        Broken: an image is broken; the message has its path.
        MimoError: an image cannot be read.
    """
    place = options.place(line)
    parts = tuple(
        part if isinstance(part, Text) else _medium(caption.images[part], place, options)
        for part in caption.parts()
    )
    return Sample(key=place, content=parts)


def _medium(image: str, place: str, options: Options) -> MediaItem:
    path = options.root / image
    try:
        regular_file(path, options.root)
        shape = shape_of(path)
    except Broken as error:
        raise Broken(f"image {shown(image)}: {error}") from None
    except OSError as error:
        raise unreadable(place, image, error) from error
    return MediaItem(
        modality="image", shape=shape, load=partial(_load, path, options.root, image, shape)
    )


def unreadable(place: str, image: str, error: OSError) -> MimoError:
    """The error for an image that may be whole, but cannot be read."""
    return MimoError(
        f"{place}: image {shown(image)} cannot be read: {error.strerror or error}",
        code="captions.unreadable-image",
        place=place,
        image=image,
    )


def _load(
    path: Path,
    root: Path,
    image: str,
    shape: tuple[int, int],
    _generator: np.random.Generator | None,
) -> np.ndarray:
    """The pixels, uint8 ``[height, width, 3]``.

    Raises:
        Broken: the file is gone, damaged, or of another shape than it was.
        OSError: it cannot be read.
    """
    try:
        regular_file(path, root)
        pixels = decode(path)
    except FileNotFoundError:
        raise Broken(f"{shown(image)}: there is no such file in {root}") from None
    except Broken as error:
        raise Broken(f"{shown(image)}: {error}") from None
    if pixels.shape[:2] != shape:
        raise Broken(f"{shown(image)}: was {shape}, is now {pixels.shape[:2]} (height, width)")
    return pixels
