"""The options of a recipe's ``data`` section with ``plugin: captions``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import attrs

SUFFIXES = (".jsonl", ".csv")


def _file(_options: Options, _field: attrs.Attribute[str], value: str) -> None:
    path = _path(value)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"'file' must name a file that ends in {' or '.join(SUFFIXES)}, not {value!r}"
        )
    if not path.is_file():
        raise ValueError(f"'file' must name a file that is there; {path.absolute()} is not")


def _folder(_options: Options, _field: attrs.Attribute[str | None], value: str | None) -> None:
    if value is not None and not _path(value).is_dir():
        raise ValueError(
            f"'folder' must name a folder that is there; {_path(value).absolute()} is not"
        )


def _name(_options: Options, field: attrs.Attribute[Any], value: str | None) -> None:
    if value == "":
        raise ValueError(f"'{field.name}' must be the name of a field or column, not empty")


def _share(_options: Options, _field: attrs.Attribute[float], value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(
            f"'held_out' must be a share between 0 and 1, both excluded, not {value}: neither "
            "split may be empty"
        )


@attrs.frozen(kw_only=True)
class Options:
    """Where the samples are, what their fields are called, and what becomes of broken ones."""

    file: str = attrs.field(validator=_file)
    """JSONL (one object a line) or CSV (with a header line), in UTF-8; a relative path starts at
    the working directory."""
    folder: str | None = attrs.field(default=None, validator=_folder)
    """What the paths of images are relative to; by default the folder of ``file``."""
    id: str = attrs.field(default="id", validator=_name)
    """Field that names a sample and decides its split: text or an integer, each once."""
    image: str | None = attrs.field(default=None, validator=_name)
    """Field with the path of an image or a list of paths; by default ``image`` or ``images``,
    whichever a line has. A line may be without."""
    text: str = attrs.field(default="text", validator=_name)
    """Field with what the model learns to say."""
    prompt: str = attrs.field(default="prompt", validator=_name)
    """Field with text before that, which is not learned. A line may be without."""
    held_out: float = attrs.field(default=0.1, validator=_share)
    """Share of the validation split. A sample's split follows from its id alone."""
    broken: Literal["stop", "skip"] = "stop"
    """A broken line or image ends the run (``stop``), or is left out on all ranks alike
    (``skip``; then every image is decoded once before training, and the verdict remembered)."""

    def __attrs_post_init__(self) -> None:
        fields = {"id": self.id, "image": self.image, "text": self.text, "prompt": self.prompt}
        for name in fields.values():
            same = [other for other, field in fields.items() if field == name is not None]
            if len(same) > 1:
                raise ValueError(
                    f"options {' and '.join(same)} name the same field {name!r}; a field has one "
                    "role"
                )

    @property
    def path(self) -> Path:
        """The file."""
        return _path(self.file)

    @property
    def root(self) -> Path:
        """The folder that images are relative to."""
        return self.path.parent if self.folder is None else _path(self.folder)

    @property
    def image_fields(self) -> tuple[str, ...]:
        """The fields that may hold images."""
        return ("image", "images") if self.image is None else (self.image,)

    def place(self, line: int) -> str:
        """A line in messages: ``captions.jsonl:17``."""
        return f"{self.path.name}:{line}"


def _path(value: str) -> Path:
    return Path(value).expanduser()
