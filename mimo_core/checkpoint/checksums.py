"""Checksums of files: XXH3 with 128 bits, which is faster than any disk and misses no changed bit
that chance makes. It does not protect against a person who wants to deceive."""

from __future__ import annotations

from pathlib import Path

import xxhash

_CHUNK_BYTES = 4 << 20


def checksum_of_file(path: Path) -> str:
    """The checksum of a file's bytes, 32 hexadecimal digits. Reads in pieces of 4 MiB.

    Raises:
        OSError: the file cannot be read.
    """
    digest = xxhash.xxh3_128()
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def checksum_of_bytes(content: bytes) -> str:
    """The checksum of some bytes, 32 hexadecimal digits."""
    return xxhash.xxh3_128_hexdigest(content)
