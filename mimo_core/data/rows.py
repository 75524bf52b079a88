"""How many rows of each encoder a microbatch has: what both ends of the bridge count alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Rows = Mapping[str, Sequence[int]]
"""By encoder: the rows of each sample of a rank's slice of a microbatch."""


class RowSource(Protocol):
    """Tells the rows of the microbatch that the next forward step takes."""

    def peek_rows(self) -> Rows: ...


def check_rows(encoder: str, rows: Any, counts: Sequence[int], width: int) -> None:
    """Compare what an encoder put out with what the samples' metadata say.

    Args:
        encoder: Name of the module.
        rows: Its tensor.
        counts: Rows of each sample.
        width: Language model's hidden size.

    Raises:
        ValueError: the tensor is not ``[sum(counts), width]``.
    """
    expected = [sum(counts), width]
    if list(rows.shape) != expected:
        raise ValueError(
            f"module {encoder!r} put out rows of shape {list(rows.shape)}, expected {expected}: by "
            f"describe().positions its samples take {list(counts)} positions, and the language "
            f"model is {width} wide; mend the plugin's describe(), its tower or its projector"
        )
