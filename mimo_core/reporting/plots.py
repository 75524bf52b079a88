"""Pictures for a terminal and for the run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mimo_core.utils.safe_files import replacing


def half_blocks(image: np.ndarray, width: int = 20) -> list[str]:
    """An image as lines of rich markup, two pixels a character.

    Args:
        image: uint8 ``[height, width, 3]``.
        width: Characters a line at most.
    """
    step = max(1, -(-image.shape[1] // width))
    small = image[::step, ::step].astype(int)
    if len(small) % 2:
        small = np.concatenate([small, small[-1:]])
    lines = []
    for upper, lower in zip(small[::2], small[1::2], strict=True):
        pairs = zip(upper, lower, strict=True)
        lines.append("".join(f"[{_rgb(top)} on {_rgb(low)}]▀[/]" for top, low in pairs))
    return lines


def _rgb(pixel: np.ndarray) -> str:
    return f"rgb({pixel[0]},{pixel[1]},{pixel[2]})"


def draw_loss(
    path: Path,
    iterations: Sequence[int],
    losses: Sequence[float],
    held_out: Sequence[tuple[int, float]],
) -> None:
    """The training loss of every iteration, and the held-out loss where it was measured."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(iterations, losses, linewidth=1, label="training")
    if held_out:
        axes.plot(*zip(*held_out, strict=True), "o-", label="held out")
    axes.set(xlabel="iteration", ylabel="loss per learned token", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    with replacing(path) as draft:
        figure.savefig(draft, dpi=120)
