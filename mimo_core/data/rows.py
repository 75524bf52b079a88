"""How many rows of each encoder a microbatch has: what both ends of the bridge count alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

Rows = Mapping[str, Sequence[int]]
"""By encoder: the rows of each sample of a rank's slice of a microbatch."""


class RowSource(Protocol):
    """Tells the rows of the microbatch that the next forward step takes."""

    def peek_rows(self) -> Rows: ...
