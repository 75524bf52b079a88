"""One record's fields as a caption: id, images, prompt and text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from mimo_core import Text, suggestion
from mimo_plugin_captions.errors import Broken, shown
from mimo_plugin_captions.options import Options

MARKER = "<image>"
"""Stands in a text where a picture goes."""

_LIKE_MARKER = re.compile(
    r"<\s*[|/]?\s*(?:image|img)s?(?:[\s_-]?(?:\d+|pad|token|placeholder))?\s*[|/]?\s*>"
    r"|\[\s*(?:image|img)\s*\]|\{\s*(?:image|img)\s*\}",
    re.IGNORECASE,
)
"""What other programs write for :data:`MARKER`, and what is typed by mistake."""


@attrs.frozen(kw_only=True)
class Caption:
    """What a line says, checked as far as it can be without its images."""

    id: str
    images: tuple[str, ...]
    """Paths as written."""
    prompt: str
    text: str

    @property
    def like_markers(self) -> tuple[str, ...]:
        """What looks like a marker and is learned or read as characters, in its order."""
        found = _LIKE_MARKER.findall(self.prompt) + _LIKE_MARKER.findall(self.text)
        return tuple(spelling for spelling in found if spelling != MARKER)

    def parts(self) -> Iterator[Text | int]:
        """The pieces in the order of the sequence; a number stands for that image.

        Pictures stand at the markers; without any, before prompt and text.
        """
        if MARKER not in self.prompt + self.text:
            yield from range(len(self.images))
        image = 0
        for words, learned in ((self.prompt, False), (self.text, True)):
            for number, piece in enumerate(words.split(MARKER)):
                if number:
                    yield image
                    image += 1
                if piece:
                    yield Text(text=piece, is_target=learned)


def caption_of(values: Mapping[str, Any], options: Options) -> Caption:
    """The caption of a record's fields; other fields are not looked at.

    Raises:
        Broken: a field is missing, empty, of a wrong type, or the markers do not fit the images.
    """
    caption = Caption(
        id=_id(_needed(values, "id", options)),
        images=_images(values, options),
        prompt=_words(values.get(options.prompt) or "", options.prompt),
        text=_words(_needed(values, "text", options), options.text),
    )
    if not caption.text.replace(MARKER, "").strip():
        raise Broken(f"field {options.text!r} is empty: there is nothing to learn")
    markers = caption.prompt.count(MARKER) + caption.text.count(MARKER)
    if markers and markers != len(caption.images):
        others = f" (it has {shown(caption.like_markers[0])} too)" if caption.like_markers else ""
        raise Broken(
            f"{_many(markers, 'marker')} {MARKER} for {_many(len(caption.images), 'image')}"
            f"{others}; give one for each, or none: then the images come first"
        )
    if caption.images and not markers and caption.like_markers:
        raise Broken(
            f"{_many(len(caption.images), 'image')} and {shown(caption.like_markers[0])}, which is "
            f"no marker and would be characters after the images; write {MARKER} where an image "
            "goes, or remove it: then the images come first"
        )
    return caption


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _needed(values: Mapping[str, Any], option: str, options: Options) -> Any:
    name = getattr(options, option)
    if values.get(name) is None:
        has = ", ".join(map(repr, values)) or "none"
        near = suggestion(name, [other for other in values if other != name])
        raise Broken(
            f"no field {name!r}; filled are: {has}.{near} data.options.{option} names the field"
        )
    return values[name]


def _id(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise Broken(f"the id is {_shown(value)}: expected text or an integer")
    return _encodable(str(value), "the id")


def _words(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise Broken(f"field {field!r} is {_shown(value)}: expected text")
    return _encodable(value, f"field {field!r}")


def _encodable(text: str, what: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise Broken(f"{what} holds half a surrogate pair, which is no text") from None
    return text


def _images(values: Mapping[str, Any], options: Options) -> tuple[str, ...]:
    given = [field for field in options.image_fields if values.get(field)]
    if len(given) > 1:
        raise Broken(f"both {' and '.join(map(repr, given))} are given; keep one")
    if not given:
        return ()
    value = values[given[0]]
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(path, str) and path for path in value):
        raise Broken(
            f"field {given[0]!r} is {_shown(value)}: expected the path of an image or several"
        )
    return tuple(value)


def _shown(value: Any) -> str:
    text = shown(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= 60 else f"{text[:57]}..."
