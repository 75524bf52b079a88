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
from mimo_core.model.tower_graphs import TowerGraphs

TOWER = "tower"
"""The one encoder of every container: keys of its parameters and of its batch."""
FEATURES = "features"
"""Beside it, what the tower has put out for the batch already."""


class EncoderContainer(ModalitySubmodules):
    """An encoder's tower and projector.

    Adds to megatron-core 0.19's container what it lacks: a ``config`` (the DDP wrap reads it),
    towers on several pipeline stages (its own calls the encoder on the first alone), and sharded
    states that hold every parameter (its own drops direct parameters and leaf children).
    """

    def __init__(self, *, config: Any, language_width: int, **parts: Any) -> None:
        super().__init__(**parts)
        self.config = config
        self._language_width = language_width
        self.graphs: TowerGraphs | None = None
        """Of a fixed tower, where it is to be captured."""

    @property
    def tower(self) -> torch.nn.Module:
        return self.encoders[TOWER]

    @property
    def projector(self) -> torch.nn.Module | None:
        """``None`` on pipeline stages before the last."""
        return self.input_projections[0] if len(self.input_projections) else None

    def decode(self, embeddings: torch.Tensor, data_batch: dict[str, Any]) -> torch.Tensor:
        raise AssertionError("encoders only encode")

    @property
    def tower_is_fixed(self) -> bool:
        """Its features of a batch are the same in every step, and all of it is on this rank."""
        learns = any(parameter.requires_grad for parameter in self.tower.parameters())
        return self.is_first_stage and self.is_last_stage and not (learns or self.tower.training)

    @torch.no_grad()
    def features(self, batch: dict[str, Any]) -> torch.Tensor:
        """What a fixed tower puts out for its batch, ``[N, width]``."""
        return self.encoded(**batch) if self.graphs is None else self.graphs(batch)

    def encoded(self, **batch: Any) -> torch.Tensor:
        """What the tower puts out for the entries of its batch, ``[N, width]``."""
        return self.encode({TOWER: batch})[0]  # type: ignore[no-any-return]

    def forward(
        self,
        encoder_inputs: dict[str, Any] | None = None,
        hidden_states: torch.Tensor | None = None,
    ) -> torch.Tensor | None:
        """One microbatch through this stage.

        Args:
            encoder_inputs: The tower's batch under ``TOWER``, or under ``FEATURES`` what it has put
                out for it; ``None`` where the samples have nothing for it.
            hidden_states: What the stage before put out; ``None`` on the first.

        Returns:
            Rows ``[N, H]`` on the last stage, hidden states ``[S, B, H]`` on others; no view of
            another tensor, as the schedule frees what was sent. ``None`` (no rows) where an encoder
            of one stage has nothing to do.

        Raises:
            ValueError: the tower put out what cannot travel, or one stage has a batch for these
                samples and another has none.
        """
        assert (hidden_states is None) == self.is_first_stage
        if hidden_states is not None and (encoder_inputs is None) != _is_nothing(hidden_states):
            raise ValueError(
                f"{type(self.tower).__name__}: for the same samples one pipeline stage has a batch "
                "and another has none; provide_batch must give None on all stages or on none"
            )
        if encoder_inputs is None:
            output = self._nothing(hidden_states)
        elif FEATURES in encoder_inputs:
            output = self.project_embeddings([encoder_inputs[FEATURES]])
        else:
            batch = encoder_inputs[TOWER]
            if hidden_states is not None:
                batch = {**batch, "hidden_states": hidden_states}
            if self.graphs is not None:
                output = self.project_embeddings([self.features(batch)])
            elif self.is_last_stage:
                output = self.project_embeddings([self.encoded(**batch)])
            else:
                output = self._hidden_states(self.tower(**batch))
        if output is None or output._base is None:
            return output
        return make_viewless_tensor(output, requires_grad=output.requires_grad, keep_graph=True)  # type: ignore[no-any-return]

    def _hidden_states(self, output: torch.Tensor) -> torch.Tensor:
        """As they travel: megatron's stages tell each other three sizes."""
        dtype = self.config.pipeline_dtype
        if output.dim() != 3 or output.dtype != dtype:
            raise ValueError(
                f"{type(self.tower).__name__} put out {list(output.shape)} in {output.dtype} on a "
                f"pipeline stage before its last; expected hidden states [S, B, H] in {dtype}"
            )
        return output.contiguous()

    def _nothing(self, hidden_states: torch.Tensor | None) -> torch.Tensor | None:
        """What a stage puts out for samples that have nothing for the encoder.

        One element stands for hidden states, since not every backend sends an empty tensor; a
        gradient of it comes back from the stage after this one.
        """
        if hidden_states is None:
            if self.is_last_stage:
                return None
            device = next(self.tower.parameters()).device
            return torch.zeros(1, 1, 1, dtype=self.config.pipeline_dtype, device=device)
        if self.is_last_stage:
            return hidden_states.flatten()[:0, None].expand(0, self._language_width)
        return hidden_states.clone()

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


def _is_nothing(hidden_states: torch.Tensor) -> bool:
    return hidden_states.numel() == 1


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
        params={
            "config": encoder.config,
            "language_width": language_width,
            "pg_collection": groups,
        },
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
