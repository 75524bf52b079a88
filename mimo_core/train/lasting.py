"""What a run has built stays until its end."""

from __future__ import annotations

import gc


def keep_what_lasts() -> None:
    """Have Python's collector not look at what is there now again. Called once, after a first
    step: everything is imported, built and compiled then, millions of objects, and a full
    collection of them stops a rank, and all that wait for it, for a good part of a second."""
    gc.collect()
    gc.freeze()
