"""Megatron's modality container around an encoder's parts: the one adapter; no plugin sees it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from megatron.core.models.mimo.submodules.base import ModalitySubmodules
from megatron.core.models.vision.multimodal_projector import MultimodalProjector
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.utils import make_viewless_tensor

from mimo_core.contract import Encoder

TOWER = "tower"
"""The one encoder of every container: keys of its parameters and of its batch."""


class EncoderContainer(ModalitySubmodules):
    """An encoder's tower and projector.

    Adds to megatron-core 0.19's container what it lacks: a ``config`` (the DDP wrap reads it) and
    sharded states that hold every parameter (its own drops direct parameters and leaf children).
    """

    def __init__(self, *, config: Any, **parts: Any) -> None:
        super().__init__(**parts)
        self.config = config

    @property
    def tower(self) -> torch.nn.Module:
        return self.encoders[TOWER]

    @property
    def projector(self) -> torch.nn.Module | None:
        """``None`` on pipeline stages before the last."""
        return self.input_projections[0] if len(self.input_projections) else None

    def decode(self, embeddings: torch.Tensor, data_batch: dict[str, Any]) -> torch.Tensor:
        raise AssertionError("encoders only encode")

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor | None:
        """Rows ``[N, H]``, no view of another tensor: the schedule frees what was sent."""
        rows = super().forward(*args, **kwargs)
        if rows is None or rows._base is None:
            return rows  # type: ignore[no-any-return]
        return make_viewless_tensor(rows, requires_grad=rows.requires_grad, keep_graph=True)  # type: ignore[no-any-return]

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None
    ) -> dict[str, Any]:
        """Raises ValueError where a parameter would be left out of the checkpoint."""
        state: dict[str, Any] = super().sharded_state_dict(prefix, sharded_offsets, metadata)
        saved = {id(getattr(value, "data", None)) for value in state.values()}
        lost = [
            name
            for name, parameter in self.named_parameters()
            if id(parameter) not in saved and f"{prefix}{name}" not in state
        ]
        if lost:
            raise ValueError(
                f"the checkpoint would not hold {lost[:3]} ({len(lost)} parameters of "
                f"{type(self.tower).__name__}); its sharded_state_dict must give every parameter"
            )
        return state


def container_spec(
    encoder: Encoder, groups: ProcessGroupCollection | None, language_width: int, width: int
) -> ModuleSpec:
    """The container as ``MimoModel`` builds it.

    Args:
        encoder: The plugin's parts.
        groups: The module's groups, ``None`` outside its grid (nothing is built there).
        language_width: What the projector must put out.
        width: What the tower puts out.
    """
    projector = encoder.projector or _affine_projector(encoder, groups, language_width, width)
    return ModuleSpec(
        module=EncoderContainer,
        params={"config": encoder.config, "pg_collection": groups},
        submodules={"encoders": {TOWER: encoder.tower}, "input_projections": [projector]},
    )


def _affine_projector(
    encoder: Encoder, groups: ProcessGroupCollection | None, language_width: int, width: int
) -> ModuleSpec:
    config = copy.copy(encoder.config)
    config.hidden_size = language_width
    # Core adds this rank's part of a bias to the gathered output, which fails where tp > 1.
    config.add_bias_linear = False
    return ModuleSpec(
        module=MultimodalProjector,
        params={
            "config": config,
            "submodules": MLPSubmodules(
                linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear
            ),
            "projector_type": "affine",
            "input_size": width,
            "pg_collection": groups,
        },
    )
