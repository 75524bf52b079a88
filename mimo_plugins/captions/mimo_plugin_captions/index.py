"""Every line of the file read once: where the good ones lie, in arrays of a few bytes a line."""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import batched, chain

import attrs
import numpy as np

from mimo_core import MimoError
from mimo_plugin_captions.captions import Caption, caption_of
from mimo_plugin_captions.errors import Broken, Fault, nothing_to_learn, same_id, shown
from mimo_plugin_captions.image_files import ImageFile, look_at
from mimo_plugin_captions.options import Options
from mimo_plugin_captions.records import Record, Source, open_source
from mimo_plugin_captions.samples import unreadable

_CHUNK = 4096
"""Lines whose image files are looked at together."""

KEPT = 1000
"""Faults that are remembered with their reasons; of all, their number."""


_HASHES = ("ids", "contents", "image_contents", "images")
"""Columns of the index that hold hashes."""


@attrs.frozen(kw_only=True, eq=False)
class Index:
    """The good records of a file, in its order; every array has one entry for each."""

    lines: np.ndarray
    """int64: number of the first line."""
    offsets: np.ndarray
    """int64: bytes before it."""
    lengths: np.ndarray
    """int64: its bytes."""
    ids: np.ndarray
    """uint64: hash of its id."""
    contents: np.ndarray
    """uint64: hash of its bytes."""
    image_contents: np.ndarray
    """uint64: hash of the contents of its image files, in their order."""
    image_counts: np.ndarray
    """int64."""
    images: np.ndarray
    """uint64 ``[sum of image_counts]``: fingerprints of the image files, record by record."""

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, kept: np.ndarray) -> Index:
        """The records at which ``kept`` (bool, one for each) is true."""
        images = self.images[np.repeat(kept, self.image_counts)]
        fields = (field.name for field in attrs.fields(Index) if field.name != "images")
        return Index(**{name: getattr(self, name)[kept] for name in fields}, images=images)


@attrs.define(kw_only=True)
class Faults:
    """What is broken in a file."""

    records: int
    """Records that were read, good and broken."""
    count: int = 0
    told: list[Fault] = attrs.field(factory=list)
    """The first :data:`KEPT` that were found."""

    def add(self, line: int, why: str) -> None:
        self.count += 1
        if len(self.told) < KEPT:
            self.told.append((line, why))


def hashed(content: bytes) -> int:
    """64 bits that are the same on every machine."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def read_index(options: Options) -> tuple[Index, Faults]:
    """The index of a file, and what is broken as far as lines and the presence of image files go.

    Raises:
        MimoError: the file cannot be used as a whole.
    """
    source = open_source(options)
    columns = {
        field.name: array("Q" if field.name in _HASHES else "q") for field in attrs.fields(Index)
    }
    faults = Faults(records=0)
    with ThreadPoolExecutor(max_workers=16) as pool:
        for records in batched(source.records(), _CHUNK):
            faults.records += len(records)
            captions = list(_captions(records, source, options, faults))
            roots = chain.from_iterable(caption.images for _, caption in captions)
            files = look_at(pool, options.root, list(roots))
            for record, caption in captions:
                found = [next(files) for _ in caption.images]
                _enter(columns, record, caption, found, options, faults)
    if not faults.records:
        raise nothing_to_learn(options)
    arrays = {
        name: np.frombuffer(values, dtype=values.typecode) for name, values in columns.items()
    }
    index = Index(**arrays)
    if options.image is not None and not len(index.images) and not faults.count:
        raise MimoError(
            f"{options.path}: no line has the field {options.image!r} that data.options.image "
            "names",
            code="captions.unknown-field",
            file=str(options.path),
            field=options.image,
            option="image",
        )
    return _without_duplicates(index, source, options, faults), faults


def read_caption(index: Index, place: int, source: Source, options: Options) -> Caption:
    """The caption of a record of the index, read from the file anew.

    Raises:
        MimoError: the file has changed there since the index was made.
    """
    with options.path.open("rb") as file:
        file.seek(int(index.offsets[place]))
        raw = file.read(int(index.lengths[place]))
    if hashed(raw) != index.contents[place]:
        raise MimoError(
            f"{options.place(int(index.lines[place]))}: the line has changed since the run began; "
            "leave the file as it is while a run reads it (lines may be added at its end)",
            code="captions.file-changed",
            file=str(options.path),
            line=int(index.lines[place]),
        )
    return caption_of(source.values(raw), options)


def _captions(
    records: tuple[Record, ...], source: Source, options: Options, faults: Faults
) -> Iterator[tuple[Record, Caption]]:
    """The captions of the records that are not broken."""
    for record in records:
        try:
            yield record, caption_of(source.values(record.raw), options)
        except Broken as error:
            faults.add(record.line, str(error))


def _enter(
    columns: dict[str, array[int]],
    record: Record,
    caption: Caption,
    files: list[ImageFile | OSError],
    options: Options,
    faults: Faults,
) -> None:
    """Adds a record to the columns, if its image files are there."""
    found: list[ImageFile] = []
    for image, file in zip(caption.images, files, strict=True):
        if isinstance(file, OSError):
            raise unreadable(options.place(record.line), image, file) from file
        if file.missing:
            faults.add(record.line, f"image {shown(image)}: {file.missing}")
            return
        found.append(file)
    columns["lines"].append(record.line)
    columns["offsets"].append(record.offset)
    columns["lengths"].append(len(record.raw))
    columns["ids"].append(hashed(caption.id.encode()))
    columns["contents"].append(hashed(record.raw))
    columns["image_contents"].append(
        hashed(b"".join(struct.pack("<Q", file.content) for file in found))
    )
    columns["image_counts"].append(len(found))
    columns["images"].extend(file.fingerprint for file in found)


def _without_duplicates(index: Index, source: Source, options: Options, faults: Faults) -> Index:
    """Of the records with the same id the first stays; the others are broken."""
    order = np.argsort(index.ids, kind="stable")
    is_again = np.diff(index.ids[order], prepend=np.uint64(0)) == 0
    is_again[:1] = False
    kept = np.ones(len(index), dtype=bool)
    kept[order[is_again]] = False
    starts = np.flatnonzero(~is_again)
    for at in np.flatnonzero(is_again)[:KEPT]:
        first = order[starts[np.searchsorted(starts, at) - 1]]
        again = int(order[at])
        name = read_caption(index, again, source, options).id
        faults.told.append(
            (
                int(index.lines[again]),
                same_id(name, int(index.lines[first])),
            )
        )
    faults.count += int(is_again.sum())
    return index.where(kept)
