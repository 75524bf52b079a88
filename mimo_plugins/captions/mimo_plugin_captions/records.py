"""The two file formats: where each record lies, and its fields."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import attrs

from mimo_core import MimoError, suggestion
from mimo_plugin_captions.errors import Broken, shown
from mimo_plugin_captions.options import Options

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"))
"""Endings of the names of image files."""

SEPARATOR = "|"
"""Between the images of a CSV field."""

FIELD_LIMIT = 16 << 20
"""Characters of a CSV field; a quote that is never closed takes no more than this with it."""

LINE_LIMIT = 64 << 20
"""Bytes of a line; a file that has no line ends is not read into memory."""

csv.field_size_limit(max(csv.field_size_limit(), FIELD_LIMIT))

_BOM = b"\xef\xbb\xbf"


@attrs.frozen(kw_only=True)
class Record:
    """One record as it lies in the file."""

    line: int
    """Number of its first line, from 1."""
    offset: int
    """Bytes before it."""
    raw: bytes


class Source(Protocol):
    """A file of records."""

    def records(self) -> Iterator[Record]:
        """All records in order, blank lines left out."""

    def sizes(self, file: BinaryIO) -> Iterator[int]:
        """Bytes of each record from the place where ``file`` stands, and of blank lines; faster
        than :meth:`records`."""

    def values(self, raw: bytes) -> dict[str, Any]:
        """The fields of a record.

        Raises:
            Broken: it does not follow the format.
        """


def open_source(options: Options) -> Source:
    """The file by its suffix.

    Raises:
        MimoError: a CSV file's header lacks columns that the options name, or is unreadable.
    """
    if options.path.suffix.lower() == ".jsonl":
        return JsonLines(options.path)
    return CommaSeparated(options)


@attrs.frozen
class JsonLines:
    """One JSON object a line."""

    path: Path

    def records(self) -> Iterator[Record]:
        for line, offset, raw in _lines(self.path):
            if raw.strip():
                yield Record(line=line, offset=offset, raw=raw)

    def sizes(self, file: BinaryIO) -> Iterator[int]:
        return map(len, file)

    def values(self, raw: bytes) -> dict[str, Any]:
        text = _text(raw).rstrip()
        try:
            values = json.loads(text, object_pairs_hook=_once)
        except json.JSONDecodeError as error:
            raise Broken(f"not JSON: {error.msg} (column {error.colno})") from None
        except Broken:
            raise
        except ValueError:
            digits = sys.get_int_max_str_digits()
            raise Broken(
                f"not JSON that can be read: an integer of more than {digits} digits"
            ) from None
        except RecursionError:
            raise Broken("not JSON that can be read: nested too deeply") from None
        if not isinstance(values, dict):
            raise Broken(f"expected a JSON object {{...}}, got {type(values).__name__}")
        return values


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, each of whose keys is given once."""
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = sorted({shown(key) for key in keys if keys.count(key) > 1})
        raise Broken(f"{', '.join(map(repr, twice))} is given more than once")
    return values


class CommaSeparated:
    """CSV (RFC 4180) with a header line; a quoted field may hold commas, quotes and newlines, an
    image field several paths with ``|`` between. An empty field is as none."""

    def __init__(self, options: Options) -> None:
        self._path = options.path
        self._image_fields = options.image_fields
        header = next(self._all(), None)
        if header is None:
            raise MimoError(
                f"{self._path}: the file is empty; a CSV file begins with a header",
                code="captions.invalid-header",
                file=str(self._path),
            )
        place = options.place(header.line)
        try:
            self._columns = _fields(header.raw)
        except Broken as error:
            raise MimoError(
                f"{place}: the header cannot be read: {error}",
                code="captions.invalid-header",
                file=str(self._path),
                line=header.line,
            ) from None
        wanted = [name for _, name in _named_columns(options)]
        if not set(wanted) & set(self._columns) and any(map(_is_data, self._columns)):
            fields = ", ".join(repr(shown(field)) for field in self._columns[:4])
            raise MimoError(
                f"{place}: the first line is no header but data ({fields}): it names none of the "
                f"columns {', '.join(map(repr, wanted))}; write a line with the names of the "
                "columns before it",
                code="captions.invalid-header",
                file=str(self._path),
                line=header.line,
                columns=tuple(self._columns),
            )
        twice = sorted({name for name in self._columns if self._columns.count(name) > 1})
        if twice:
            raise MimoError(
                f"{place}: the header has {', '.join(map(repr, twice))} more than once",
                code="captions.invalid-header",
                file=str(self._path),
                line=header.line,
                columns=tuple(twice),
            )
        if len(self._columns) == 1 and (other := re.search("[;\t]", self._columns[0])):
            raise MimoError(
                f"{place}: the header has one column; its fields are separated by {other[0]!r}, "
                "and a CSV file is read with commas: save it with commas, or as JSONL",
                code="captions.invalid-header",
                file=str(self._path),
                line=header.line,
                separator=other[0],
            )
        for option, name in _named_columns(options):
            if name not in self._columns:
                raise MimoError(
                    f"{place}: the header has no column {name!r}, only "
                    f"{', '.join(map(repr, self._columns))}.{suggestion(name, self._columns)} "
                    f"data.options.{option} names the column",
                    code="captions.unknown-field",
                    file=str(self._path),
                    line=header.line,
                    field=name,
                    option=option,
                    columns=tuple(self._columns),
                )

    def records(self) -> Iterator[Record]:
        records = self._all()
        next(records, None)
        return records

    def sizes(self, file: BinaryIO) -> Iterator[int]:
        size = 0

        def lines() -> Iterator[bytes]:
            nonlocal size
            for line in file:
                size += len(line)
                yield line

        for _ in _filled(lines()):
            yield size
            size = 0

    def values(self, raw: bytes) -> dict[str, Any]:
        fields = _fields(raw)
        if len(fields) != len(self._columns):
            raise Broken(f"{len(fields)} fields, but the header has {len(self._columns)}")
        values: dict[str, Any] = dict(zip(self._columns, fields, strict=True))
        for name in self._image_fields:
            if values.get(name):
                values[name] = [path.strip() for path in values[name].split(SEPARATOR)]
        return {name: value for name, value in values.items() if value}

    def _all(self) -> Iterator[Record]:
        """Every record, the header too; a broken one ends where the reader gave up."""
        pulled: list[tuple[int, int, bytes]] = []

        def lines() -> Iterator[bytes]:
            for line in _lines(self._path):
                pulled.append(line)
                yield line[2]

        for is_filled in _filled(lines()):
            if is_filled:
                line, offset, _ = pulled[0]
                yield Record(line=line, offset=offset, raw=b"".join(raw for *_, raw in pulled))
            pulled.clear()


def _is_data(field: str) -> bool:
    """Whether a field of the first line is a value, not the name of a column: a number, the name of
    an image file, or a text of several words."""
    text = field.strip()
    try:
        float(text)
    except ValueError:
        return Path(text.split(SEPARATOR)[0]).suffix.lower() in SUFFIXES or len(text.split()) > 2
    return True


def _named_columns(options: Options) -> Iterator[tuple[str, str]]:
    """(option, column) of every column that must be there."""
    yield "id", options.id
    yield "text", options.text
    if options.image is not None:
        yield "image", options.image
    if options.prompt != attrs.fields(Options).prompt.default:
        yield "prompt", options.prompt


def _filled(lines: Iterable[bytes]) -> Iterator[bool]:
    """For each CSV record whether it is no blank line, as soon as its lines are taken."""
    # Of the text only quotes, commas and line ends matter here, which are ASCII.
    reader = csv.reader((line.decode("latin-1") for line in lines), strict=True)
    while True:
        try:
            is_filled = bool(next(reader))
        except StopIteration:
            return
        except csv.Error:
            is_filled = True
        yield is_filled


def _fields(raw: bytes) -> list[str]:
    """The fields of one CSV record."""
    try:
        rows = list(csv.reader(io.StringIO(_text(raw), newline="\n"), strict=True))
    except csv.Error as error:
        lines = len(raw.splitlines())
        goes_on = f"; an open quote makes one record of {lines} lines" if lines > 1 else ""
        raise Broken(f"not CSV: {error}{goes_on}") from None
    return rows[0]


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(number, offset, bytes) of every line; a byte order mark belongs to none."""
    with path.open("rb") as file:
        offset = 0
        for number, raw in enumerate(iter(lambda: file.readline(LINE_LIMIT + 1), b""), 1):
            if len(raw) > LINE_LIMIT:
                raise MimoError(
                    f"{path}: line {number} has more than {LINE_LIMIT:,} bytes",
                    code="captions.line-too-long",
                    file=str(path),
                    line=number,
                    limit_bytes=LINE_LIMIT,
                )
            mark = len(_BOM) if number == 1 and raw.startswith(_BOM) else 0
            yield number, offset + mark, raw[mark:]
            offset += len(raw)


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Broken(f"not UTF-8 text (byte {error.start + 1} of the line)") from None
