"""What of a file nothing reads as it was probably meant: other fields, other markers."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from mimo_core import suggestion
from mimo_plugin_captions.captions import MARKER, caption_of
from mimo_plugin_captions.errors import Broken, shown
from mimo_plugin_captions.options import Options
from mimo_plugin_captions.records import SEPARATOR, SUFFIXES, open_source

LOOKED_AT = 64
"""First records whose fields are looked at."""

LISTED = 20
"""Fields that are listed; of more the number."""


def field_notes(options: Options) -> list[str]:
    """One line that lists the fields which nothing reads; none where all are read.

    Raises:
        MimoError: the header of a CSV file cannot be read.
    """
    read = {options.id, options.text, options.prompt, *options.image_fields}
    filled: set[str] = set()
    unread: dict[str, bool] = {}
    source = open_source(options)
    for record in islice(source.records(), LOOKED_AT):
        try:
            values = source.values(record.raw)
        except Broken:
            continue
        filled |= read & {name for name, value in values.items() if value}
        for name in values.keys() - read:
            unread[name] = unread.get(name, False) or _names_image(values[name], options.root)
    if not unread:
        return []
    has_images = bool(filled & {*options.image_fields})
    told = [
        repr(shown(name)) + _meant(name, is_image, has_images, filled, options)
        for name, is_image in sorted(unread.items(), key=lambda item: (not item[1], item[0]))
    ]
    more = [f"{len(told) - LISTED} more"] if len(told) > LISTED else []
    return [f"{options.path}: nothing reads these fields: {', '.join([*told[:LISTED], *more])}"]


def marker_notes(options: Options) -> list[str]:
    """One line where texts of the first records have what looks like a marker and is none.

    Raises:
        MimoError: the header of a CSV file cannot be read.
    """
    source = open_source(options)
    first: tuple[int, str] | None = None
    count = read = 0
    for record in islice(source.records(), LOOKED_AT):
        try:
            caption = caption_of(source.values(record.raw), options)
        except Broken:
            continue
        read += 1
        if caption.like_markers:
            count += 1
            first = first or (record.line, caption.like_markers[0])
    if first is None:
        return []
    line, spelling = first
    return [
        f"{options.place(line)}: {shown(spelling)} is no marker and becomes characters; an image "
        f"stands where a text has {MARKER}. Such texts: {count} of the first {read} samples"
    ]


def _meant(name: str, is_image: bool, has_images: bool, filled: set[str], options: Options) -> str:
    """What a field was probably meant for, in brackets, or nothing."""
    if is_image:
        advice = "" if has_images else f": write data.options.image: {shown(name)!r}"
        return f" (its values are names of image files there{advice})"
    for option, wanted in (("image", options.image_fields), ("prompt", (options.prompt,))):
        if not filled & {*wanted} and suggestion(name.strip().casefold(), wanted):
            return f" (near {wanted[0]!r}: write data.options.{option}: {shown(name)!r})"
    return ""


def _names_image(value: Any, root: Path) -> bool:
    """Whether a value is the name of an image file below ``root``, or a list of such names."""
    if isinstance(value, list):
        return bool(value) and _names_image(value[0], root)
    if not isinstance(value, str) or len(value) > 4096 or "\0" in value:
        return False
    path = root / value.split(SEPARATOR)[0].strip()
    try:
        return path.suffix.lower() in SUFFIXES and path.is_file()
    except OSError:
        return False
