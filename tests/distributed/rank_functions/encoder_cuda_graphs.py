"""Run on a rank: models whose tower is captured."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from tests.helpers.paths import RECIPES

TINY = RECIPES / "tiny.yaml"
OVERRIDES = (
    "placement=colocated",
    'modules.language.options.pattern="*-"',
    "modules.vision.freeze=[encoder]",
    "modules.vision.megatron={cuda_graph_impl: local}",
)


class Recorded:
    """Stands for a graph: computes again what it was made of."""

    def __init__(self, function: Any, generators: Any) -> None:
        self._function = function
        self.output = torch.full_like(function(), torch.nan)
        assert list(generators)

    def replay(self) -> None:
        self.output.copy_(self._function())


class Captures:
    """The rank's platform, as one that captures."""

    name = "cuda"
    transformer_engine = False
    device = torch.device("cpu")
    capture = Recorded


def built(platform: Any) -> dict[str, Any]:
    from mimo_core.distributed.process_groups import build_topology
    from mimo_core.model.builder import BuildConfig, Builder
    from mimo_core.model.cuda_graphs import layers
    from mimo_core.planning.plan import make_plan

    prepared: list[Any] = []
    layers.prepare_generators = prepared.append  # type: ignore[assignment]
    plan = make_plan(TINY, OVERRIDES)
    topology = build_topology(plan.layout.grids, plan.layout.rank_offsets, platform.backend)
    captures: Any = Captures()
    build = BuildConfig(
        host=plan.host, graph=plan.graph, topology=topology, platform=captures, seed=1
    )
    model = Builder(build).build_model(topology.collection)
    container: Any = model.bare("vision")
    images = torch.randn(6, 4, 3, 16, 16)
    found, apart = [], 0.0
    for index, batch in enumerate(images):
        model.train(index < 4)
        if index in (2, 3):
            features = container.features({"images": batch})
            rows: Any = model.encode("vision", None, features)
        else:
            rows = model.encode("vision", {"images": batch})
        plain = container.project_embeddings([container.encoded(images=batch)])
        apart = max(apart, float((rows - plain).abs().max()))
        found.append(len(container.graphs))
    rows.sum().backward()
    return {
        "prepared": len(prepared),
        "layers": [
            part.config.cuda_graph_impl for part in (container.tower.vit, container.projector)
        ],
        "captured": found,
        "apart": apart,
        "projector": all(one.grad is not None for one in container.projector.parameters()),
    }


class Waits(torch.nn.Module):
    """Asks the device for a number, as towers do that are cut by it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[: int(x[0].item())] * 2


class Plain(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


def waits(platform: Any) -> dict[str, Any]:
    from megatron.core import tensor_parallel
    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

    from mimo_core.model.cuda_graphs import layers
    from mimo_core.model.cuda_graphs.encoder import TowerGraphs

    layers.prepare_generators(platform)
    model_parallel_cuda_manual_seed(1, tp_rank=0, ep_rank=0, etp_rank=0)

    def graphs_of(tower: Any) -> TowerGraphs:
        return TowerGraphs(
            tower,
            capture=partial(layers.capture, platform),
            device=platform.device,
            module="vision",
            tower=tower,
        )

    tower = Waits()
    graphs = graphs_of(tower)
    x = torch.full((8,), 3.0, device=platform.device)
    before, said, stream = tower(x).tolist(), "", torch.cuda.current_stream()
    try:
        for _ in range(5):
            graphs({"x": x})
    except ValueError as error:
        said = str(error)
    same = torch.cuda.current_stream() == stream
    after = tower(x).tolist()
    drawn = [bool(torch.rand(4, device=platform.device).sum() > 0) for _ in range(2)]
    with tensor_parallel.get_cuda_rng_tracker().fork():
        drawn.append(bool(torch.rand(4, device=platform.device).sum() > 0))
    another, counts = graphs_of(Plain()), []
    for _ in range(4):
        assert another({"x": x}).tolist() == [6.0] * 8
        counts.append(len(another))
    return {
        "before": before,
        "said": said,
        "after": after,
        "stream": same,
        "another": counts,
        "drawn": drawn,
    }
