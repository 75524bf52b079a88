"""What is measured, and what it is compared with."""

from __future__ import annotations

from pathlib import Path

import attrs

HERE = Path(__file__).parent
FROZEN = (
    "modules.vision.freeze=[encoder]",
    # The host would take longer for the tower's kernels than the GPU.
    "modules.vision.megatron={cuda_graph_impl: local}",
)


@attrs.frozen(kw_only=True)
class Benchmark:
    """A run whose steady iterations are timed."""

    name: str
    recipe: str
    """A file, or the name of a packaged recipe."""
    overrides: tuple[str, ...] = ()
    ranks: int
    hand_wired: float | None = None
    """Seconds an iteration of the best hand-wired implementation of the same model, on the same
    machine: H200s, Megatron-LM as of August 2026 with all its overlap."""
    target: float | None = None
    """Seconds an iteration that this project means to reach there."""


SUITE = (
    Benchmark(name="1gpu-language", recipe=str(HERE / "language-1gpu.yaml"), ranks=1),
    Benchmark(
        name="1gpu-both",
        recipe=str(HERE / "vlm-2gpu.yaml"),
        overrides=("placement=colocated",),
        ranks=1,
    ),
    Benchmark(
        name="2gpu-trainable",
        recipe=str(HERE / "vlm-2gpu.yaml"),
        ranks=2,
        hand_wired=1.82,
        target=1.45,
    ),
    Benchmark(
        name="2gpu-frozen",
        recipe=str(HERE / "vlm-2gpu.yaml"),
        overrides=FROZEN,
        ranks=2,
        hand_wired=0.65,
        target=0.52,
    ),
    Benchmark(
        name="4gpu-trainable",
        recipe=str(HERE / "vlm-4gpu.yaml"),
        ranks=4,
        hand_wired=5.04,
        target=4.0,
    ),
    Benchmark(
        name="4gpu-frozen",
        recipe=str(HERE / "vlm-4gpu.yaml"),
        overrides=FROZEN,
        ranks=4,
        hand_wired=2.26,
        target=1.85,
    ),
    Benchmark(
        name="8gpu-trainable",
        recipe="nemotron-vlm-8gpu",
        overrides=("modules.vision.freeze=[]",),
        ranks=8,
    ),
    Benchmark(name="8gpu-frozen", recipe="nemotron-vlm-8gpu", ranks=8),
)


def named(name: str) -> Benchmark:
    """A benchmark of the suite, or a recipe as one.

    Args:
        name: Of a benchmark, of a recipe file or of a packaged recipe.

    Raises:
        MimoError: the recipe is wrong, or not there.
    """
    for benchmark in SUITE:
        if benchmark.name == name:
            return benchmark
    from mimo_core.planning.plan import make_plan

    return Benchmark(name=Path(name).stem, recipe=name, ranks=make_plan(name).layout.world_size)
