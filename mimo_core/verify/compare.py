"""What two runs of the same model and samples did in each step, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs

Quantity = Literal["loss", "gradient norm", "gradient", "parameter change"]

_ROUNDING = 2.0**-24
"""Relative error of one rounding in fp32."""

TOLERANCES: Mapping[Quantity, float] = {
    "loss": 2**7 * _ROUNDING,
    "gradient norm": 2**9 * _ROUNDING,
    "gradient": 2**11 * _ROUNDING,
    "parameter change": 2**15 * _ROUNDING,
}
"""Largest relative difference that another order of fp32 sums explains.

A loss and a gradient are sums of many products; a layout changes the order of the additions, and
their roundings add up like a random walk over some 2**14 of them (2**7), through forward and
backward of a few layers (2**9 for the norm of a gradient, 2**11 for that of the one parameter that
differs most). Adam divides a gradient by its own
size: an entry whose gradient is mostly rounding moves by a full step in any direction, and some
such entries are in every model (2**15 of the change as a whole, 0.2 %). What is wrong in kind, such
as a gradient divided by another number, or a sample that went elsewhere, shows from 1 % on.
"""


@attrs.frozen(kw_only=True)
class Row:
    """One quantity of one step."""

    step: int
    quantity: Quantity
    module: str | None
    """``None`` for the loss, which is the whole model's."""
    judge: float
    layout: float
    difference: float
    """Relative to the judge's; of tensors, the norm of their difference."""
    parameter: str | None = None
    """Of a gradient, the parameter whose differs most."""

    @property
    def tolerance(self) -> float:
        return TOLERANCES[self.quantity]

    @property
    def equal(self) -> bool:
        """Within the tolerance."""
        return self.difference <= self.tolerance


@attrs.frozen(kw_only=True)
class Verdict:
    """All that was compared."""

    rows: tuple[Row, ...]
    frozen: Mapping[str, bool]
    """By frozen part, such as ``vision.encoder``: not one bit of it changed, in either run."""

    @property
    def equal(self) -> bool:
        """The layout trains as the judge does."""
        return all(row.equal for row in self.rows) and all(self.frozen.values())

    @property
    def worst(self) -> Mapping[Quantity, float]:
        """The largest difference of each quantity."""
        found: dict[Quantity, float] = {}
        for row in self.rows:
            found[row.quantity] = max(row.difference, found.get(row.quantity, 0.0))
        return found


def compare_iterations(
    judge: Sequence[Mapping[str, Any]], layout: Sequence[Mapping[str, Any]]
) -> list[Row]:
    """Losses and gradient norms, from the iterations of two summaries."""
    rows = []
    for one, other in zip(judge, layout, strict=True):
        values: list[tuple[Quantity, str | None, Any, Any]]
        # A step that both leave out, as nothing is learned in it, has no loss.
        losses = one["loss"], other["loss"]
        left_out = losses == (None, None) and None not in one["gradient_norms"].values()
        values = [] if left_out else [("loss", None, *losses)]
        for module, norm in one["gradient_norms"].items():
            values.append(("gradient norm", module, norm, other["gradient_norms"][module]))
        for quantity, module, mine, its in values:
            # A step that was skipped has no value.
            given = [float("nan") if value is None else value for value in (mine, its)]
            rows.append(
                Row(
                    step=one["iteration"],
                    quantity=quantity,
                    module=module,
                    judge=given[0],
                    layout=given[1],
                    difference=relative(abs(given[1] - given[0]), given[0]),
                )
            )
    return rows


def relative(difference: float, of: float) -> float:
    """The difference as a part of ``of``: 0 where both are 0, infinite where one is no number."""
    if difference == 0.0:
        return 0.0
    return difference / abs(of) if of and not math.isnan(difference) else math.inf
