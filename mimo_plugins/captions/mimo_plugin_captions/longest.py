"""The longest record of a file, found without reading what the records say."""

from __future__ import annotations

from pathlib import Path

from mimo_plugin_captions.records import Record, Source

SCANNED = 32 << 20
"""Bytes that are looked at: less than half a second."""


def longest_after(record: Record, source: Source, path: Path) -> Record | None:
    """The longest record by bytes of those that begin within :data:`SCANNED` after ``record``."""
    with path.open("rb") as file:
        start = file.seek(record.offset + len(record.raw))
        before = scanned = longest = 0
        for size in source.sizes(file):
            if size > longest:
                before, longest = scanned, size
            scanned += size
            if scanned >= SCANNED:
                break
        if not longest:
            return None
        file.seek(start)
        between = file.read(before)
        line = record.line + record.raw.count(b"\n") + between.count(b"\n")
        return Record(line=line, offset=start + before, raw=file.read(longest))
