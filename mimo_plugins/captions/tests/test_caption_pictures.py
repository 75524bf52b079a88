"""Image files of all kinds: sizes from headers, pixels, what counts as broken."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from caption_files import cut, write_picture
from mimo_plugin_captions.errors import Broken
from mimo_plugin_captions.pictures import decode, shape_of
from PIL import Image

ORIENTATION = 0x0112


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (64, 7)])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_pixels_come_as_they_are(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    path = tmp_path / f"a.{suffix}"
    written = write_picture(path, *size, **({"quality": 100} if suffix == "jpg" else {}))
    pixels = decode(path)
    assert shape_of(path) == size
    assert pixels.dtype == np.uint8 and pixels.shape == (*size, 3) and pixels.flags.writeable
    if suffix == "png":
        np.testing.assert_array_equal(pixels, written)


def _first_pixel(path: Path) -> list[int]:
    return decode(path)[0, 0].tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("mode", "colour", "seen"),
    [
        ("L", 100, [100, 100, 100]),
        ("1", 1, [255, 255, 255]),
        ("RGBA", (200, 0, 0, 0), [255, 255, 255]),
        ("RGBA", (200, 0, 100, 255), [200, 0, 100]),
        ("RGBA", (0, 0, 0, 51), [204, 204, 204]),
        ("LA", (0, 51), [204, 204, 204]),
    ],
)
def test_png_modes(tmp_path: Path, mode: str, colour: Any, seen: list[int]) -> None:
    Image.new(mode, (4, 3), colour).save(tmp_path / "a.png")
    assert _first_pixel(tmp_path / "a.png") == seen


def test_palettes_and_their_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (4, 3), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "clear.png", transparency=1)
    assert _first_pixel(tmp_path / "opaque.png") == [10, 20, 30]
    assert _first_pixel(tmp_path / "clear.png") == [255, 255, 255]


def test_sixteen_bit_grey_keeps_its_shades(tmp_path: Path) -> None:
    grey = np.array([[0, 0x0180, 0x7F00, 0xFFFF]], dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png")[0, :, 0].tolist() == [0, 1, 0x7F, 0xFF]


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    red, green, blue = _first_pixel(tmp_path / "a.jpg")
    assert red > 240 and green < 15 and blue < 15


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_size_and_pixels_alike(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    """Dark in the stored upper left quarter; where it must be seen is what EXIF 2.3 says."""
    stored = np.full((32, 64, 3), 255, dtype=np.uint8)
    stored[:16, :32] = 0
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(stored).save(path, exif=exif)
    pixels = decode(path)
    assert pixels.shape[:2] == shape_of(path) == ((32, 64) if orientation < 5 else (64, 32))
    height, width = pixels.shape[:2]
    corners = {
        "upper left": pixels[0, 0, 0],
        "upper right": pixels[0, width - 1, 0],
        "lower right": pixels[height - 1, width - 1, 0],
        "lower left": pixels[height - 1, 0, 0],
    }
    expected = [*corners, "upper left", "upper right", "lower right", "lower left"][orientation - 1]
    assert [name for name, value in corners.items() if value < 128] == [expected]


def _chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file."""
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def test_orientation_behind_the_pixels_counts_for_neither(tmp_path: Path) -> None:
    """A header read cannot know it; so that both agree, decoding does not heed it."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = tmp_path / "a.png"
    write_picture(path, 8, 20)
    content, told = path.read_bytes(), exif.tobytes().removeprefix(b"Exif\0\0")
    end = _chunk(b"IEND", b"")
    path.write_bytes(content.removesuffix(end) + _chunk(b"eXIf", told) + end)
    assert shape_of(path) == (8, 20)
    assert decode(path).shape == (8, 20, 3)


def test_damaged_exif_is_no_damage(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.jpg", 8, 20, exif=b"Exif\0\0nothing")
    assert decode(tmp_path / "a.jpg").shape[:2] == shape_of(tmp_path / "a.jpg") == (8, 20)


def test_content_counts_and_not_the_name(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.jpg", 5, 6, format="PNG")
    assert shape_of(tmp_path / "a.jpg") == (5, 6)
    write_picture(tmp_path / "b.png", 5, 6, format="GIF")
    for read in (shape_of, decode):
        with pytest.raises(Broken, match="neither a JPEG nor a PNG"):
            read(tmp_path / "b.png")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_picture_cut_short_is_broken(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    write_picture(path, 40, 40)
    cut(path)
    assert shape_of(path) == (40, 40), "the header is whole"
    with pytest.raises(Broken, match="truncated"):
        decode(path)


def test_an_empty_file_is_broken(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(Broken, match="neither a JPEG nor a PNG"):
        shape_of(tmp_path / "a.png")


def test_a_huge_picture_is_broken_and_not_decoded(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", b""))
    with pytest.raises(Broken, match=r"more than [\d,]+ pixels, Pillow's limit"):
        shape_of(path)


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_large_metadata_are_no_damage(tmp_path: Path, kind: bytes, behind: bool) -> None:
    path = tmp_path / "a.png"
    written = write_picture(path, 8, 20)
    content = path.read_bytes()
    at = content.index(b"IEND" if behind else b"IDAT") - 4
    extra = _chunk(kind, b"workflow\0\0" + zlib.compress(bytes(5 << 20)))
    path.write_bytes(content[:at] + extra + content[at:])
    assert shape_of(path) == (8, 20)
    np.testing.assert_array_equal(decode(path), written)


def test_what_cannot_be_read_is_not_called_broken(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        decode(tmp_path / "a.png")
    with pytest.raises(IsADirectoryError):
        shape_of(tmp_path)


def test_a_large_image_is_read_without_pillows_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    write_picture(path, 12, 12)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert shape_of(path) == (12, 12) and decode(path).shape == (12, 12, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 70)
    with pytest.raises(Broken, match="more than 140 pixels"):
        shape_of(path)
