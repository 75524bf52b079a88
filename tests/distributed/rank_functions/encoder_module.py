"""A container around a stranger's tower, plain torch, with the core's projector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

WIDTH, LANGUAGE_WIDTH = 6, 8


WRONG: dict[str, Callable[[torch.Tensor], Any]] = {
    "tuple": lambda rows: (rows, None),
    "list": lambda rows: [rows],
    "empty": lambda _rows: (),
    "dict": lambda rows: {"last_hidden_state": rows},
    "None": lambda _rows: None,
    "number": lambda rows: float(rows.sum()),
    "1 dimension": lambda rows: rows.flatten(),
    "4 dimensions": lambda rows: rows[None],
    "integers": lambda rows: rows.long(),
}
"""What a module returns instead of its rows."""


class Projector(torch.nn.Module):
    """From the tower's width to the language model's."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self.wrong = wrong
        self.linear = torch.nn.Linear(WIDTH, LANGUAGE_WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return WRONG[self.wrong](self.linear(x)) if self.wrong else self.linear(x)


class Tower(torch.nn.Module):
    """Gives ``[B, S, width]``, a view when flattened; ``lost`` keeps a parameter to itself;
    ``wrong`` changes what it returns."""

    def __init__(self, lost: bool = False, wrong: str = "") -> None:
        super().__init__()
        self.wrong = wrong
        self.linear = torch.nn.Linear(3, WIDTH)
        if lost:
            self.sharded_state_dict = lambda *_args, **_kwargs: {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return WRONG[self.wrong](self.linear(x)) if self.wrong else self.linear(x)


def contain(platform: Any) -> dict[str, Any]:
    """What the container does with it, on two tensor-parallel ranks."""
    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
    from megatron.core.transformer.spec_utils import ModuleSpec

    from mimo_core.contract import EncoderSpec, Grid, ModuleConfig, TrainingConfig
    from mimo_core.distributed.process_groups import build_topology
    from mimo_core.model.config import transformer_config
    from mimo_core.model.encoder_module import TOWER, container_spec

    grid = Grid(tp=2)
    groups = build_topology({"vision": grid}, {"vision": 0}, platform.backend).groups["vision"]
    model_parallel_cuda_manual_seed(1, tp_rank=groups.tp.rank(), ep_rank=0, etp_rank=0)
    torch.manual_seed(1)
    train = TrainingConfig(
        iterations=1,
        micro_batch_size=1,
        global_batch_size=1,
        sequence_length=8,
        learning_rate=1.0,
    )
    module = ModuleConfig(name="vision", plugin="stranger", grid=grid, train=train)
    config = transformer_config(module, num_layers=1, hidden_size=WIDTH, num_attention_heads=2)

    def build(
        lost: bool = False,
        first: bool = True,
        last: bool = True,
        *,
        tower: str = "",
        projector: str | None = None,
        width: int = WIDTH,
    ) -> Any:
        projection = {"module": Projector, "params": {"wrong": projector}}
        encoder = EncoderSpec(
            tower=ModuleSpec(module=Tower, params={"lost": lost, "wrong": tower}),
            config=config,
            projector=None if projector is None else ModuleSpec(**projection),
        )
        title = "module 'vision' (plugin 'stranger')"
        spec = container_spec(encoder, groups, LANGUAGE_WIDTH, width, title)
        return spec.module.from_spec(spec, is_first_stage=first, is_last_stage=last)

    def said(call: Callable[[], object]) -> str:
        try:
            call()
        except ValueError as error:
            return str(error)
        return ""

    container = build(lost=False)
    batch = {TOWER: {"x": torch.ones(2, 5, 3)}}
    rows = container(encoder_inputs=batch)
    rows.sum().backward()
    first, last = build(lost=False, last=False), build(lost=False, first=False)
    hidden, nothing = first(encoder_inputs=batch), first(encoder_inputs=None)
    wrong = {}
    for name in WRONG:
        wrong[f"tower: {name}"] = said(lambda n=name: build(tower=n)(encoder_inputs=batch))
        wrong[f"stage: {name}"] = said(
            lambda n=name: build(tower=n, last=False)(encoder_inputs=batch)
        )
        wrong[f"projector: {name}"] = said(lambda n=name: build(projector=n)(encoder_inputs=batch))
    return {
        "wrong": wrong,
        "right": list(build(projector="")(encoder_inputs=batch).shape),
        "width": said(lambda: build(width=7)(encoder_inputs=batch)),
        "shape": list(rows.shape),
        "rows": rows.detach().flatten().tolist(),
        "view": rows._base is not None,
        "gradients": all(parameter.grad is not None for parameter in container.parameters()),
        "saved": len(container.sharded_state_dict()),
        "parameters": len(list(container.parameters())),
        "said": said(build(lost=True).sharded_state_dict),
        "hidden": list(hidden.shape),
        "flat": said(lambda: first(encoder_inputs={TOWER: {"x": torch.ones(5, 3)}})),
        "apart": [
            said(lambda: last(encoder_inputs=None, hidden_states=hidden)),
            said(lambda: last(encoder_inputs=batch, hidden_states=nothing)),
        ],
    }
