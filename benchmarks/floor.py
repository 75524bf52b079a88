"""The floor of a benchmark: the least time that its FLOPs and bytes take.

    python -m benchmarks.floor 2gpu-trainable            on a machine with a GPU: measures its rates
    python -m benchmarks.floor 2gpu-trainable --rate 788 --link 400

Per module and microbatch: model FLOPs over what its ranks do at the rate of a large matrix
product. A module of ``pp`` stages is busy for ``microbatches + pp - 1`` of those. Before the
language model's first microbatch an encoder has made one forward, and after its last one backward.
Beside that, rows go over the links, and gradients back at the same time. The floor is the longest
of all these, as any of them can hide the others; nothing else is counted: no memory traffic, no
optimizer, no launch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import attrs
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.suite import SUITE, named
from mimo_core.contract import LANGUAGE
from mimo_core.distributed.routing import route_edge
from mimo_core.errors import MimoError
from mimo_core.planning.flops import any_encoder_trainable, training_flops
from mimo_core.planning.plan import Plan, make_plan

BYTES = {"fp32": 4, "bf16": 2}
SIZE = 8192
"""Of the square matrices whose product is timed."""


@attrs.frozen(kw_only=True)
class Share:
    """One module's part of a microbatch."""

    module: str
    ranks: int
    forward: float
    """FLOPs of the forward, over all ranks."""
    training: float
    """FLOPs of forward and backward."""
    stages: int
    carried: float
    """Bytes of rows that one of its ranks sends or receives, at most."""

    def seconds(self, rate: float) -> float:
        """Of forward and backward of one microbatch."""
        return self.training / (self.ranks * rate)


@attrs.frozen(kw_only=True)
class Floor:
    """Seconds an iteration."""

    module: str
    """That takes longest."""
    by: Literal["compute", "link"]
    """What of it."""
    seconds: float


def shares(plan: Plan) -> tuple[Share, ...]:
    """The modules' parts of a microbatch of the samples that the dataset previews first.

    Args:
        plan: Of a recipe.

    Raises:
        MimoError: a plugin does not tell its FLOPs.
    """
    graph = plan.graph
    samples = plan.recipe.train.micro_batch_size * plan.layout.grids[LANGUAGE].dp
    sample = plan.host.call_hook("preview_samples", graph.data.plugin, data=graph.data)[0]
    counts = plan.preview[0]
    width = graph.descriptions[LANGUAGE].hidden_size * BYTES[graph.modules[LANGUAGE].precision]

    def share(name: str) -> Share:
        module = graph.modules[name]
        if not plan.host.implements("estimate_flops", module.plugin):
            raise MimoError(
                f"modules.{name}: plugin {module.plugin} does not tell its FLOPs (hook flops), and "
                "without them there is no floor",
                code="plugin.missing-hook",
                module=name,
                plugin=module.plugin,
                hook="estimate_flops",
            )
        pieces: Any = plan.host.call_hook(
            "estimate_flops", module.plugin, module=module, samples=[sample], lengths=[counts.total]
        )
        gradients = name == LANGUAGE and any_encoder_trainable(graph)
        grid = plan.layout.grids[name]
        return Share(
            module=name,
            ranks=grid.size,
            forward=samples
            * sum(piece.weight_matmul + piece.activation_matmul for piece in pieces),
            training=samples * training_flops(pieces, module.freeze, gradients=gradients),
            stages=grid.pp,
            carried=max(carried(name, rank) for rank in plan.layout.ranks(name)),
        )

    def carried(name: str, rank: int) -> float:
        """Of all edges of a rank: a rank of the language model has one from each encoder."""
        if plan.layout.kind == "colocated":
            return 0
        edges = graph.encoders if name == LANGUAGE else [name]
        return sum(
            (leg.end - leg.begin) * counts.encoders.get(encoder, 0) * width
            for encoder in edges
            for leg in route_edge(encoder, plan.layout, samples, rank).forward
        )

    return tuple(share(name) for name in graph.modules)


def floor(
    parts: tuple[Share, ...], microbatches: int, rate: float, link: float, *, colocated: bool
) -> Floor:
    """The floor of an iteration.

    Args:
        parts: Of a microbatch, by module.
        microbatches: Of an iteration.
        rate: FLOP/s of a rank.
        link: Bytes a second that a rank sends, and at the same time receives.
        colocated: All modules are on one rank, one after another.
    """
    if colocated:
        together = microbatches * sum(part.seconds(rate) for part in parts)
        busiest = max(parts, key=lambda part: part.training)
        return Floor(module=busiest.module, by="compute", seconds=together)
    longest = max(
        (part.seconds(rate) for part in parts if part.module != LANGUAGE),
        default=0.0,
    )

    def busy(part: Share) -> float:
        own = (microbatches + part.stages - 1) * part.seconds(rate)
        return own + longest if part.module == LANGUAGE else own

    floors = [Floor(module=part.module, by="compute", seconds=busy(part)) for part in parts]
    floors += [
        Floor(module=part.module, by="link", seconds=microbatches * part.carried / link)
        for part in parts
    ]
    return max(floors, key=lambda one: one.seconds)


def measured_rate() -> float | None:
    """FLOP/s of a large bf16 matrix product on this machine's first GPU; ``None`` without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    left, right = (torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(3):
        left @ right
    start.record()
    for _ in range(10):
        left @ right
    end.record()
    torch.cuda.synchronize()
    seconds: float = start.elapsed_time(end) / 1e3
    return 10 * 2 * SIZE**3 / seconds


def _positive(value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter(f"{value:g} is no finite number above 0")
    return value


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Benchmarks or recipes.")] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            callback=_positive, help="TFLOP/s of a rank; by default measured on this GPU."
        ),
    ] = None,
    link: Annotated[
        float,
        typer.Option(
            callback=_positive, help="GB/s that a rank sends, and receives at the same time."
        ),
    ] = 400.0,
) -> None:
    """Print the floor of benchmarks."""
    console = Console()
    try:
        chosen = [named(name) for name in names] if names else SUITE
        planned = [(one.name, make_plan(one.recipe, one.overrides)) for one in chosen]
        known = [(name, plan, shares(plan)) for name, plan in planned]
    except MimoError as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(2) from None
    per_second = measured_rate() if rate is None else rate * 1e12
    if per_second is None:
        console.print("there is no GPU to measure; give --rate TFLOP/s")
        raise typer.Exit(2)
    rates = f"{per_second / 1e12:.4g} TFLOP/s a rank, {link:g} GB/s a link"
    console.print(f"{rates}; of a microbatch: TFLOP forward and in training, ms", highlight=False)
    shown = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("benchmark", "module", "forward", "training", "ms", "link", "floor s", "of"):
        left = name in ("benchmark", "module", "of")
        shown.add_column(name, justify="left" if left else "right", no_wrap=True)
    for name, plan, parts in known:
        for row in _rows(name, plan, parts, per_second, link * 1e9):
            shown.add_row(*row)
    console.print(shown)


def _rows(
    name: str, plan: Plan, parts: tuple[Share, ...], rate: float, link: float
) -> Iterator[tuple[str, ...]]:
    train, dp = plan.recipe.train, plan.layout.grids[LANGUAGE].dp
    microbatches = train.global_batch_size // (train.micro_batch_size * dp)
    colocated = plan.layout.kind == "colocated"
    least = floor(parts, microbatches, rate, link, colocated=colocated)
    for part in parts:
        longest = part.module == least.module
        times = microbatches if colocated else microbatches + part.stages - 1
        yield (
            name,
            part.module,
            f"{part.forward / 1e12:.3g}",
            f"{part.training / 1e12:.3g}",
            f"{times} x {_digits(part.seconds(rate) * 1e3, 1)}",
            _digits(part.carried / link * 1e3, 1) if part.carried else "-",
            _digits(least.seconds, 2) if longest else "",
            least.by if longest else "",
        )


def _digits(value: float, places: int) -> str:
    """So many places, and of a small number two digits."""
    fixed = f"{value:.{places}f}"
    return fixed if value >= 10 ** (1 - places) else f"{value:.2g}"


if __name__ == "__main__":
    typer.run(main)
