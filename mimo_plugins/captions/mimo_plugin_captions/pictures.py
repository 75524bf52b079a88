"""Image files: their size from the header, their pixels, and what makes them broken."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from mimo_plugin_captions.errors import Broken

if TYPE_CHECKING:
    import numpy as np

FORMATS = ("JPEG", "PNG")

# One text or colour profile in a PNG may take what Pillow allows all texts of a picture together
# (64 MiB): large metadata do not make a damaged picture.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY

_ORIENTATION = 0x0112
"""Number of the EXIF tag."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What sets a picture upright, by its EXIF orientation."""

_ON_THE_SIDE = (5, 6, 7, 8)


def shape_of(path: Path) -> tuple[int, int]:
    """(height, width) of an image, set upright; reads its header only.

    Raises:
        Broken: it is no JPEG or PNG, or too large.
        OSError: it cannot be read.
    """
    with _opened(path) as image:
        width, height = image.size
        return (width, height) if _orientation(image) in _ON_THE_SIDE else (height, width)


def decode(path: Path) -> np.ndarray:
    """An image as uint8 ``[height, width, 3]``, upright, what is transparent on white.

    Raises:
        Broken: as for :func:`shape_of`, or its data are damaged or cut short.
        OSError: it cannot be read.
    """
    import numpy as np

    with _opened(path) as image:
        orientation = _orientation(image)
        upright = _rgb(image)
        if orientation in _UPRIGHT:
            upright = upright.transpose(_UPRIGHT[orientation])
        return np.array(upright)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            # Up to twice Pillow's limit an image is read; above, Pillow raises an error.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(path, formats=FORMATS)
        with opened as image:
            yield image
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise Broken(
            "neither a JPEG nor a PNG that can be read (its name does not matter)"
        ) from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise Broken(
            f"more than {limit:,} pixels, Pillow's limit against decompression bombs; make the "
            "image smaller"
        ) from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise Broken(str(error)) from None
    except Exception as error:  # Pillow's decoders raise all kinds on damaged data
        raise Broken(f"damaged ({type(error).__name__}: {error})") from None


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) where there is none, as far as the header tells: asked before
    the pixels are loaded, which could bring more of it."""
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
        orientation = exif.get(_ORIENTATION)
    except Exception:  # damaged EXIF data do not make a damaged picture
        return 1
    return orientation if isinstance(orientation, int) else 1


def _rgb(image: Image.Image) -> Image.Image:
    """The picture in 8-bit RGB."""
    if image.mode.startswith("I"):
        # 16-bit grey; Pillow would clip it at 255.
        import numpy as np

        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
