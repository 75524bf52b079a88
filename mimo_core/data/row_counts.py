"""How many rows of each encoder a microbatch has: what both ends of the bridge count alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from mimo_core.errors import PluginError

RowCounts = Mapping[str, Sequence[int]]
"""By encoder: the rows of each sample of a rank's slice of a microbatch."""


class RowCountSource(Protocol):
    """Tells the rows of the microbatch that the next forward step takes."""

    def peek_row_counts(self) -> RowCounts: ...


def check_rows(rows: Any, counts: Sequence[int], width: int, title: str) -> None:
    """Compare what an encoder put out with what the samples' metadata say.

    Args:
        rows: Its tensor.
        counts: Rows of each sample.
        width: Language model's hidden size.
        title: The module and its plugin, as messages name them.

    Raises:
        PluginError: the tensor is not ``[sum(counts), width]``.
    """
    expected = [sum(counts), width]
    if list(rows.shape) != expected:
        raise PluginError(
            f"{title} put out rows of shape {list(rows.shape)}, expected {expected}: by hook "
            f"'describe_module' (count_positions) its samples take {list(counts)} positions, and "
            f"the language model is {width} wide; the tower and the projector of hook "
            "'build_submodule' must put out the same, or 'describe_module' must say what they "
            "put out",
            code="plugin.wrong-rows",
            shape=tuple(rows.shape),
            expected=tuple(expected),
        )
