"""Files that are on the disk itself when a function returns, after a power cut too."""

from __future__ import annotations

import os
from pathlib import Path

from mimo_core.utils.safe_files import replace_text


def write_synced(path: Path, text: str) -> None:
    """Write a file, to the disk itself."""
    replace_text(path, text, sync=True)


def replace(path: Path, text: str) -> None:
    """Replace a file in one step: a reader sees the old file or the new one."""
    write_synced(path, text)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Write the entries of a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
