"""The floor of a benchmark: the least time that its FLOPs and bytes take.

    python -m benchmarks.floor 2gpu-trainable            on a machine with a GPU: measures its rates
    python -m benchmarks.floor 2gpu-trainable --rate 788 --link 400

Per module and microbatch: model FLOPs over what its ranks do at the rate of a large matrix
product. A module of ``pp`` stages is busy for ``microbatches + pp - 1`` of those. Before the
language model's first microbatch an encoder has made one forward, and after its last one backward.
The floor is the longest of these; nothing else is counted: no memory traffic, no optimizer, no
launch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import attrs
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.suite import SUITE, Benchmark, named
from mimo_core.contract import LANGUAGE
from mimo_core.errors import MimoError
from mimo_core.plan import Plan, make_plan
from mimo_core.work import an_encoder_learns, training_flops

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
    sent: int
    """Bytes of rows to the language model; as many come back where the encoder learns."""

    def seconds(self, rate: float) -> float:
        """Of forward and backward of one microbatch."""
        return self.training / (self.ranks * rate)


@attrs.frozen(kw_only=True)
class Floor:
    """Seconds an iteration."""

    module: str
    """That takes longest."""
    seconds: float


def shares(plan: Plan) -> tuple[Share, ...]:
    """The modules' parts of a microbatch of the samples that the dataset previews first.

    Args:
        plan: Of a recipe whose plugins tell their FLOPs.
    """
    graph = plan.graph
    samples = plan.recipe.train.micro_batch_size * plan.layout.grids[LANGUAGE].dp
    sample = plan.host.ask("preview", graph.data.plugin, data=graph.data)[0]
    counts = plan.preview[0]
    width = graph.descriptions[LANGUAGE].width * BYTES[graph.modules[LANGUAGE].precision]

    def share(name: str) -> Share:
        module = graph.modules[name]
        pieces: Any = plan.host.ask(
            "flops", module.plugin, module=module, samples=[sample], lengths=[counts.total]
        )
        gradients = name == LANGUAGE and an_encoder_learns(graph)
        grid = plan.layout.grids[name]
        return Share(
            module=name,
            ranks=grid.size,
            forward=samples * sum(piece.weights + piece.activations for piece in pieces),
            training=samples * training_flops(pieces, module.freeze, gradients=gradients),
            stages=grid.pp,
            sent=samples * counts.encoders.get(name, 0) * width,
        )

    return tuple(share(name) for name in graph.modules)


def floor(
    parts: tuple[Share, ...], microbatches: int, rate: float, *, colocated: bool = False
) -> Floor:
    """The floor of an iteration.

    Args:
        parts: Of a microbatch, by module.
        microbatches: Of an iteration.
        rate: FLOP/s of a rank.
        colocated: All modules are on one rank, one after another.
    """
    if colocated:
        together = microbatches * sum(part.seconds(rate) for part in parts)
        return Floor(module=max(parts, key=lambda part: part.training).module, seconds=together)
    longest = max(
        (part.seconds(rate) for part in parts if part.module != LANGUAGE),
        default=0.0,
    )

    def busy(part: Share) -> float:
        own = (microbatches + part.stages - 1) * part.seconds(rate)
        return own + longest if part.module == LANGUAGE else own

    slowest = max(parts, key=busy)
    return Floor(module=slowest.module, seconds=busy(slowest))


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


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Benchmarks or recipes.")] = None,
    rate: Annotated[
        float | None,
        typer.Option(min=1e-3, help="TFLOP/s of a rank; by default measured on a GPU."),
    ] = None,
    link: Annotated[float, typer.Option(min=1e-3, help="GB/s between two ranks.")] = 400.0,
) -> None:
    """Print the floor of benchmarks."""
    console = Console()
    per_second = rate * 1e12 if rate else measured_rate()
    if per_second is None:
        console.print("there is no GPU to measure; give --rate TFLOP/s")
        raise typer.Exit(2)
    console.print(f"{per_second / 1e12:.3g} TFLOP/s a rank, {link:.0f} GB/s a link")
    shown = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("benchmark", "module", "TFLOP forward", "training", "ms", "link ms", "floor s"):
        shown.add_column(name, justify="left" if name in ("benchmark", "module") else "right")
    try:
        for benchmark in [named(name) for name in names] if names else SUITE:
            for row in _rows(benchmark, per_second, link * 1e9):
                shown.add_row(*row)
    except MimoError as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(2) from None
    console.print(shown)


def _rows(benchmark: Benchmark, rate: float, link: float) -> Iterator[tuple[str, ...]]:
    plan = make_plan(benchmark.recipe, benchmark.overrides)
    parts = shares(plan)
    train, dp = plan.recipe.train, plan.layout.grids[LANGUAGE].dp
    microbatches = train.global_batch_size // (train.micro_batch_size * dp)
    least = floor(parts, microbatches, rate, colocated=plan.layout.kind == "colocated")
    for part in parts:
        yield (
            benchmark.name,
            part.module,
            f"{part.forward / 1e12:.3g}",
            f"{part.training / 1e12:.3g}",
            f"{part.seconds(rate) * 1e3:.3g}",
            f"{part.sent / part.ranks / link * 1e3:.2g}",
            f"{least.seconds:.2g}" if part.module == least.module else "",
        )


if __name__ == "__main__":
    typer.run(main)
