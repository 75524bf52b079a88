"""The directory that an export makes: checked before anything else is done."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from mimo_core.checkpoint.manifest import MANIFEST
from mimo_core.errors import MimoError

_AT_CHECKPOINT = "export.at-checkpoint"


def check_out(out: Path) -> None:
    """Whether a directory can be made there without harm to a checkpoint.

    Raises:
        MimoError: it cannot; says why.
    """
    try:
        if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
            raise MimoError(
                f"{out} exists; give a new directory", code="export.exists", out=str(out)
            )
        place = Path(os.path.realpath(out))
        inside = [path for path in place.parents if (path / MANIFEST).exists()]
    except OSError as error:
        raise cannot_make(out, error) from None
    if inside:
        raise MimoError(
            f"{out} is inside the checkpoint {inside[0]}, which more files would damage; give a "
            "directory outside",
            code=_AT_CHECKPOINT,
            out=str(out),
            checkpoint=str(inside[0]),
        )
    if re.fullmatch("iter_[0-9]+", place.name):
        raise MimoError(
            f"{out} has the name of a checkpoint, which a run may replace; give another name",
            code=_AT_CHECKPOINT,
            out=str(out),
        )


def make_parent(out: Path) -> None:
    """Make the folder above a directory that is about to be made.

    Raises:
        MimoError: nothing can be written there.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise cannot_make(out, error) from None


def cannot_make(out: Path, error: OSError) -> MimoError:
    """The error for a directory that the system does not let be made."""
    at = "" if error.filename in (None, str(out)) else f" ({error.filename})"
    message = f"{out} cannot be made: {error.strerror}{at}; give another directory"
    return MimoError(message, code="export.not-writable", out=str(out), cause=error.strerror)
