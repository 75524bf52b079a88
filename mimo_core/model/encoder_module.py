"""Megatron's modality container around an encoder's parts: the one adapter; no plugin sees it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from megatron.core.models.mimo.submodules.base import ModalitySubmodules
from megatron.core.models.vision.multimodal_projector import MultimodalProjector
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.utils import make_viewless_tensor

from mimo_core.contract import EncoderSpec
from mimo_core.errors import PluginError
from mimo_core.model.cuda_graphs.encoder import TowerGraphs

TOWER = "tower"
"""The one encoder of every container: keys of its parameters and of its batch."""
FEATURES = "features"
"""Beside it, what the tower has put out for the batch already."""


class EncoderSubmodule(ModalitySubmodules):
    """An encoder's tower and projector.

    Adds to megatron-core 0.19's container what it lacks: a ``config`` (the DDP wrap reads it),
    towers on several pipeline stages (its own calls the encoder on the first alone), and sharded
    states that hold every parameter (its own drops direct parameters and leaf children).
    """

    def __init__(
        self,
        *,
        config: Any,
        language_width: int,
        projector_input: int | None,
        title: str,
        **parts: Any,
    ) -> None:
        super().__init__(**parts)
        self.config = config
        self._title = title
        self._projector_input = projector_input
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
        """What the tower puts out for the entries of its batch, ``[N, width]``.

        Not by core's ``encode``, which takes the first entry of a tuple and drops the rest.

        Raises:
            PluginError: the tower returned something else.
        """
        due = "rows [N, width] or [B, S, width]"
        rows = check_output(self.tower(**batch), (2, 3), due, self._forward_of("tower"))
        width = self._projector_input
        if width is not None and rows.shape[-1] != width:
            raise PluginError(
                f"{self._forward_of('tower')} returned a tensor of shape {list(rows.shape)}, "
                f"expected {due} with width {width}, as hook 'describe_module' says",
                code="plugin.wrong-forward",
                forward=self._forward_of("tower"),
                shape=tuple(rows.shape),
                expected_width=width,
            )
        return rows.reshape(-1, rows.shape[-1])

    def _projected(self, features: torch.Tensor) -> torch.Tensor:
        """Rows ``[N, H]`` of the tower's ``[N, width]``; on the last stage.

        Raises:
            PluginError: the projector returned something else.
        """
        assert self.projector is not None
        due = f"rows [N, {self._language_width}]"
        return check_output(self.projector(features), (2,), due, self._forward_of("projector"))

    def _forward_of(self, part: str) -> str:
        module = self.tower if part == "tower" else self.projector
        return (
            f"{self._title}, hook 'build_submodule': the forward of the {part} "
            f"{type(module).__name__}"
        )

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
            PluginError: the tower or the projector returned something else than such a tensor, or
                one stage has a batch for these samples and another has none.
        """
        assert (hidden_states is None) == self.is_first_stage
        if hidden_states is not None and (encoder_inputs is None) != _is_nothing(hidden_states):
            raise PluginError(
                f"{type(self.tower).__name__}: for the same samples one pipeline stage has a batch "
                "and another has none; provide_batch must give None on all stages or on none",
                code="plugin.wrong-batch",
                tower=type(self.tower).__name__,
            )
        if encoder_inputs is None:
            output = self._nothing(hidden_states)
        elif FEATURES in encoder_inputs:
            output = self._projected(encoder_inputs[FEATURES])
        else:
            batch = encoder_inputs[TOWER]
            if hidden_states is not None:
                batch = {**batch, "hidden_states": hidden_states}
            if self.graphs is not None:
                output = self._projected(self.features(batch))
            elif self.is_last_stage:
                output = self._projected(self.encoded(**batch))
            else:
                output = self._hidden_states(self.tower(**batch))
        if output is None or output._base is None:
            return output
        return make_viewless_tensor(output, requires_grad=output.requires_grad, keep_graph=True)  # type: ignore[no-any-return]

    def _hidden_states(self, output: Any) -> torch.Tensor:
        """As they travel: megatron's stages tell each other three sizes.

        Raises:
            PluginError: the tower returned something else.
        """
        dtype = self.config.pipeline_dtype
        due = f"hidden states [S, B, H] in {dtype} from a pipeline stage before the last"
        hidden = check_output(output, (3,), due, self._forward_of("tower"))
        if hidden.dtype != dtype:
            raise PluginError(
                f"{self._forward_of('tower')} returned {hidden.dtype}, expected {due}",
                code="plugin.wrong-forward",
                forward=self._forward_of("tower"),
                dtype=str(hidden.dtype),
                expected_dtype=str(dtype),
            )
        return hidden.contiguous()

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
        """Raises PluginError where a parameter would be left out of the checkpoint."""
        state: dict[str, Any] = super().sharded_state_dict(prefix, sharded_offsets, metadata)
        saved = {id(getattr(value, "data", None)) for value in state.values()}
        lost = [
            name
            for name, parameter in self.named_parameters()
            if id(parameter) not in saved and f"{prefix}{name}" not in state
        ]
        if lost:
            raise PluginError(
                f"the checkpoint would not hold {lost[:3]} ({len(lost)} parameters of "
                f"{type(self.tower).__name__}); its sharded_state_dict must give every parameter",
                code="plugin.unsaved-parameters",
                tower=type(self.tower).__name__,
                parameters=tuple(lost),
            )
        return state


def check_output(output: Any, dims: Sequence[int], due: str, where: str) -> torch.Tensor:
    """What a plugin's module returned, if it is a tensor of floating-point numbers.

    Args:
        output: It.
        dims: Numbers of dimensions that it may have.
        due: What is expected, for the message.
        where: The module's forward, its plugin and hook, for the message.

    Raises:
        PluginError: it is something else.
    """
    if not isinstance(output, torch.Tensor):
        given = f"{type(output).__name__}" if output is not None else "None"
        if isinstance(output, tuple | list):
            given += f" of {', '.join(type(one).__name__ for one in output) or 'nothing'}"
        raise PluginError(
            f"{where} returned {given}, expected {due}",
            code="plugin.wrong-forward",
            forward=where,
            type=given,
            expected=due,
        )
    if output.dim() not in dims or not output.is_floating_point():
        raise PluginError(
            f"{where} returned a tensor of shape {list(output.shape)} in {output.dtype}, "
            f"expected {due}",
            code="plugin.wrong-forward",
            forward=where,
            shape=tuple(output.shape),
            dtype=str(output.dtype),
            expected=due,
        )
    return output


def _is_nothing(hidden_states: torch.Tensor) -> bool:
    return hidden_states.numel() == 1


def container_spec(
    encoder: EncoderSpec,
    groups: ProcessGroupCollection | None,
    language_width: int,
    width: int,
    title: str,
) -> ModuleSpec:
    """The container as ``MimoModel`` builds it.

    Args:
        encoder: The plugin's parts.
        groups: The module's groups, ``None`` outside its grid (nothing is built there).
        language_width: What the projector must put out.
        width: What the tower puts out.
        title: The module and its plugin, as messages name them.
    """
    projector = encoder.projector or _affine_projector(encoder, groups, language_width, width)
    return ModuleSpec(
        module=EncoderSubmodule,
        params={
            "config": encoder.config,
            "language_width": language_width,
            "projector_input": width if encoder.projector is None else None,
            "title": title,
            "pg_collection": groups,
        },
        submodules={"encoders": {TOWER: encoder.tower}, "input_projections": [projector]},
    )


def _affine_projector(
    encoder: EncoderSpec, groups: ProcessGroupCollection | None, language_width: int, width: int
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
