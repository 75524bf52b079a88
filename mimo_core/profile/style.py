"""How a step's picture looks: colors, axes, and what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {
    "forward": "#5b8fd9",
    "backward": "#2c4f8c",
    "communication": "#f08c2e",
    "waiting": "#eef0f3",
    "data": "#9b6fc9",
    "optimizer": "#4fae7b",
    "other": "#c9ccd1",
}
PASSES = ("forward", "backward")
HATCH, INK, FAINT = "#b4bac4", "#2b2f36", "#8a919d"
HATCHED: dict[str, Any] = {"hatch": "/////", "edgecolor": HATCH}
ARROWS = {"rows": "#b0322b", "activations": "#b0322b", "gradients": "#77801f"}


def frame(axes: Axes, height: float) -> None:
    """Axes of so many rows, counted from the top."""
    axes.set_ylim(height, 0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(length=0, colors=FAINT)
    axes.grid(axis="x", color="#e7e9ed", linewidth=0.6)
    axes.set_axisbelow(True)


def draw_legend(figure: Figure) -> None:
    """Below all axes."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    words = {
        "forward": "forward, by microbatch",
        "backward": "backward",
        "communication": "exposed communication",
        "waiting": "waits for a rank",
        "data": "data",
        "optimizer": "optimizer",
        "other": "other",
    }
    handles: list[Any] = [
        Patch(
            facecolor=COLORS[name], label=label, linewidth=0,
            hatch="/////" if name == "waiting" else None, edgecolor=HATCH,
        )
        for name, label in words.items()
    ]  # fmt: skip
    for name, label in (("rows", "rows, activations"), ("gradients", "gradients")):
        handles.append(Line2D([], [], color=ARROWS[name], marker=">", markersize=4, label=label))
    figure.legend(
        handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=8.5,
        labelcolor=INK, columnspacing=1.4, handlelength=1.4,
    )  # fmt: skip
