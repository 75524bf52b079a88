"""The outer model of a rank: megatron's ``MimoModel`` with only the module that is active here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from megatron.core.models.mimo.config import MimoModelConfig
from megatron.core.models.mimo.config.role import ModuleLayout, RankRole
from megatron.core.models.mimo.model.base import MimoModel
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.utils import unwrap_model

from mimo_core.contract import LANGUAGE, Module
from mimo_core.model.containers import TOWER, EncoderContainer
from mimo_core.model.context import OwnPositions


class Model(MimoModel):
    """One rank's model: an encoder's container or the language model, wrapped by the builder.

    Mends in megatron-core 0.19's ``MimoModel``:

    - a language model alone on its grid is taken for a colocated layout, whose forward knows no
      pipeline stages: the role is always told by the grids here;
    - checkpoint keys count the wrappers around a module, so that fp32 and bf16 runs cannot read
      each other: keys are free of wrappers here;
    - ``train()`` reaches frozen parts, also after every evaluation: they stay in eval mode here;
    - which positions a context-parallel rank holds is asked of TransformerEngine where samples are
      packed: see :class:`~mimo_core.model.context.OwnPositions`.
    """

    def __init__(
        self,
        config: MimoModelConfig,
        *,
        module: Module,
        groups: ProcessGroupCollection,
        rng_prefix: str,
    ) -> None:
        """
        Args:
            config: Specs and grids of all modules.
            module: The module of this rank.
            groups: Its process groups; the stock loop reads ``pg_collection`` for reductions,
                logging and checkpoints of this rank.
            rng_prefix: Its random state's namespace in checkpoints.
        """
        super().__init__(config, cp_group=groups.cp, tp_group=groups.tp)
        assert config.module_to_grid_map is not None
        self.role = RankRole._from_grid_map(config.module_to_grid_map)
        assert self.role.mode is ModuleLayout.NON_COLOCATED
        self.node = module
        self.module_name = module.name
        self.pg_collection = groups
        self.rng_state_key_prefix = rng_prefix
        self._frozen: list[torch.nn.Module] = []
        if self.partition_adapter is not None:
            self.partition_adapter = OwnPositions(self.partition_adapter.cfg)

    # Parts of this rank
    @property
    def active(self) -> torch.nn.Module:
        """This rank's module with its wrappers."""
        if self.module_name == LANGUAGE:
            return self.language_model  # type: ignore[no-any-return]
        return self.modality_submodules[self.module_name]

    def replace_active(self, wrapped: torch.nn.Module) -> None:
        """Put the wrapped module in place of the bare one."""
        if self.module_name == LANGUAGE:
            self.language_model = wrapped
        else:
            self.modality_submodules[self.module_name] = wrapped

    @property
    def bare(self) -> torch.nn.Module:
        """This rank's module without wrappers."""
        return unwrap_model(self.active)  # type: ignore[no-any-return]

    def part(self, name: str) -> torch.nn.Module | None:
        """``encoder``, ``projector`` or ``language`` on this rank: the words of ``freeze``."""
        bare = self.bare
        if isinstance(bare, EncoderContainer):
            return {"encoder": bare.tower, "projector": bare.projector}.get(name)
        return bare if name == LANGUAGE else None

    def freeze(self, names: tuple[str, ...]) -> None:
        """Stop parts from learning; before wrapping, so that no gradient buffers are made."""
        for name in names:
            part = self.part(name)
            if part is not None:
                part.requires_grad_(False)
                part.eval()
                self._frozen.append(part)

    def train(self, mode: bool = True) -> Model:
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    # Steps
    def encode(self, inputs: dict[str, Any] | None) -> dict[str, torch.Tensor]:
        """Rows ``{module: [N, H]}`` of one microbatch, or this stage's activations.

        Args:
            inputs: The module's batch on its first stage; ``None`` where there is nothing to
                encode, which gives no rows.
        """
        batch = None if inputs is None else {self.module_name: {TOWER: inputs}}
        output, _ = self(input_ids=None, modality_inputs=batch)
        return output  # type: ignore[no-any-return]

    def logits(
        self,
        inputs: Mapping[str, torch.Tensor],
        packing: dict[str, Any] | None = None,
        own: torch.Tensor | None = None,
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Logits ``[B, S / cp, V / tp]`` on the last stage, activations by module on others.

        Args:
            inputs: The module's batch on its first and last stage, else nothing; whole rows.
            packing: What :func:`~mimo_core.model.packing.packing_kwargs` gives, where samples lie
                end to end.
            own: This rank's positions of the rows, with context parallelism.
        """
        if self.partition_adapter is not None:
            self.partition_adapter.own = own
            # Labels and mask are the forward step's.
        given = {"input_ids": None, **inputs, "labels": None, "loss_mask": None}
        output, _ = self(**given, packing_kwargs=packing)
        return output  # type: ignore[no-any-return]

    def losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Losses ``[B, S / cp]`` of labels ``[B, S / cp]`` from logits ``[B, S / cp, V / tp]``."""
        bare = self.bare
        return bare.compute_language_model_loss(  # type: ignore[no-any-return, operator]
            labels, logits.transpose(0, 1).contiguous()
        )

    # Checkpoints
    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None
    ) -> dict[str, Any]:
        """This rank's sharded state; checkpoint keys without wrappers, local keys with them."""
        metadata = {**(metadata or {}), "dp_cp_group": self.pg_collection.dp_cp}
        clean, wrapped = self._key_prefixes(prefix)
        state = self.bare.sharded_state_dict(clean, sharded_offsets, metadata)  # type: ignore[operator]
        return {wrapped + key.removeprefix(clean): value for key, value in state.items()}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load, strictly whatever ``strict`` says.

        The stock loop retries a strict load that failed with ``strict=False`` and only prints what
        is missing; a run must not go on with half of its weights. TransformerEngine's extra states
        may be absent: they hold no weights.
        """
        result = super().load_state_dict(state_dict, strict=False, assign=assign)
        missing = [key for key in result.missing_keys if not key.endswith("_extra_state")]
        unexpected = [key for key in result.unexpected_keys if not key.endswith("_extra_state")]
        if missing or unexpected:
            raise ValueError(
                f"the checkpoint does not fit module {self.module_name!r}: it lacks {missing}, "
                f"and has {unexpected} that the model has not; load it with the recipe it was "
                "saved with"
            )
        return result

    def _key_prefixes(self, prefix: str) -> tuple[str, str]:
        place = LANGUAGE + "_model" if self.module_name == LANGUAGE else None
        clean = f"{prefix}{place or f'modality_submodules.{self.module_name}'}."
        return clean, clean + "module." * _depth(self.active)


def _depth(module: torch.nn.Module) -> int:
    """Wrappers around the bare module."""
    bare, depth = unwrap_model(module), 0
    while module is not bare:
        module, depth = module.module, depth + 1  # type: ignore[assignment]
    return depth
