"""Megatron's optimizer of a heterogeneous model, with what is decided over all modules."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.models.mimo.optimizer import MimoOptimizer
from megatron.core.optimizer import OptimizerConfig
from megatron.core.optimizer.clip_grads import count_zeros_fp32, get_grad_norm_fp32

from mimo_core.checkpoint.keys import optimizer_prefix
from mimo_core.model.mimo_model import RankMimoModel
from mimo_core.optimizer.states import keeps_steps_in_state
from mimo_core.profile.recorder import span
from mimo_core.utils.activity import CURRENT

STEP = "step"
"""Of Adam, in a module's state."""


class Optimizer(MimoOptimizer):  # type: ignore[misc]
    """Megatron's optimizer of a heterogeneous model."""

    def __init__(
        self,
        infos: dict[str, Any],
        config: OptimizerConfig,
        stages: dict[str, list[int]],
        model: RankMimoModel,
    ) -> None:
        """
        Args:
            infos: The optimizer of each module.
            config: The run's.
            stages: Of each module of this rank, how many optimizers each pipeline stage has (dense
                layers have one, experts another).
            model: This rank's, which knows the number of learned tokens of a step.
        """
        super().__init__(infos, config)
        self._stages = stages
        self._model = model
        self._device = next(model.parameters()).device
        self._sharding_type: str | None = None
        # Core's sums over a module span its stages, but are called by an optimizer alone.
        self._left_out = [
            info.pg_collection.intra_dist_opt
            for name, info in infos.items()
            if info.is_active and not info.optimizer and any(stages[name])
        ]
        self.norms: dict[str, float] = {}
        """Norm of each module's gradient before clipping, of the last step; on all ranks."""
        self.has_learned_tokens = True
        """Whether the last step's global batch has any learned token; on all ranks."""

    def step(self) -> tuple[bool, float | None, int | None]:
        """One step of all modules: whether it was taken, the norm, and zeros where counted."""
        with span("optimizer", "optimizer"), CURRENT.during("optimizer"):
            return super().step()  # type: ignore[no-any-return]

    @torch.no_grad()
    def prepare_grads(self) -> bool:
        """Whether the step must be skipped, on all ranks: any gradient anywhere is not finite, or
        the global batch has no learned token.

        Core finds the first with a loss scaler only; without one a single infinite gradient would
        make all of its module's weights NaN. It does not look for the second: weight decay and
        momentum would move the weights.
        """
        found_inf = bool(super().prepare_grads())
        for group in self._left_out:
            get_grad_norm_fp32([], grad_stats_parallel_group=group)
        norms = torch.zeros(len(self.module_infos) + 1, device=self._device, dtype=torch.float32)
        for index, info in enumerate(self.module_infos.values()):
            if info.is_active and info.optimizer:
                norms[index] = info.optimizer.get_grad_norm() or 0.0
        num_learned_tokens = self._model.num_learned_tokens
        assert num_learned_tokens is not None, "finalize_gradients runs before the optimizer"
        # Beside the norms, so that the host waits for the device once.
        norms[-1] = num_learned_tokens
        # A NaN gets lost where ranks take the largest.
        norms = norms.nan_to_num(nan=torch.inf, posinf=torch.inf)
        dist.all_reduce(norms, op=dist.ReduceOp.MAX)
        *of_modules, learned = norms.tolist()
        self.norms = dict(zip(self.module_infos, of_modules, strict=True))
        self.has_learned_tokens = learned > 0
        finite = math.isfinite(self.get_grad_norm())
        return found_inf or not finite or not self.has_learned_tokens

    def get_grad_norm(self) -> float:
        """The norm of the whole model's gradient, before clipping."""
        return math.hypot(*self.norms.values())

    def count_zeros(self) -> int:
        """Elements of the whole model's gradient that are 0."""
        for group in self._left_out:
            count_zeros_fp32([], group)
        return int(super().count_zeros())

    def sharded_state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The state, by keys and objects that no layout changes.

        Core saves the parameter groups of each of a module's optimizers: dense layers have one,
        experts another where ep exceeds 1, on the stages that have experts. Of the groups only
        Adam's step is state, the rest follows from the recipe: it is saved, once a module, by the
        first stage that learns.
        """
        state: dict[str, Any] = super().sharded_state_dict(*args, **kwargs)
        self._sharding_type = (kwargs.get("metadata") or {}).get("distrib_optim_sharding_type")
        for name, held in self._held():
            module = state[name]
            for part in _parts(module, held):
                for key in [key for key in part if key.startswith("_mimo_param_")]:
                    del part[key]
            groups = self.module_infos[name].pg_collection
            before = sum(count > 0 for count in self._stages[name][: groups.pp.rank()])
            module[STEP] = ShardedObject(
                f"{optimizer_prefix(name)}step",
                _step_of(held),
                (1,),
                (0,),
                replica_id=(groups.tp.rank(), before, groups.dp.rank()),
            )
        return state

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`sharded_state_dict` gave, with two mends.

        Core writes into fp32 parameters, which are their own main parameters, in place. And it
        loses the step of torch's Adam: it is set, shared between all states, and then overwritten
        with what a zero-dimensional tensor leaves of itself in a flat buffer (a state that can be
        resharded holds none, and core asks for it: :func:`load_without_steps`).
        """
        steps = {}
        for name, held in self._held():
            module = state_dict[name]
            steps[name] = module.pop(STEP)
            for part, inner in zip(_parts(module, held), held, strict=True):
                part["param_state_sharding_type"] = self._sharding_type
                if "optimizer" not in part:
                    part["optimizer"] = inner.state_dict()["optimizer"]
                if steps[name] is not None:
                    for group in part["optimizer"]["param_groups"]:
                        group["step"] = steps[name]
        super().load_state_dict(state_dict)
        for name, held in self._held():
            for inner in held:
                for group in inner.optimizer.param_groups:
                    if keeps_steps_in_state(inner.optimizer):
                        group.pop("step", None)
                        for parameter in group["params"]:
                            step = torch.tensor(float(steps[name]))
                            inner.optimizer.state[parameter]["step"] = step

    def _held(self) -> Iterator[tuple[str, list[Any]]]:
        """The optimizers of each module that learns on this rank."""
        for name, info in self.module_infos.items():
            if info.is_active and info.optimizer is not None:
                yield name, info.optimizer.chained_optimizers


def _parts(module: dict[Any, Any], optimizers: list[Any]) -> list[dict[str, Any]]:
    """The state of each optimizer of a module; that of one alone is not counted."""
    if len(optimizers) == 1:
        return [module]
    return [module[index] for index in range(len(optimizers))]


def _step_of(optimizers: list[Any]) -> int | None:
    """Steps that Adam has made; ``None`` where TransformerEngine's has made none."""
    groups = [
        group for inner in optimizers for group in inner.state_dict()["optimizer"]["param_groups"]
    ]
    return next((int(group["step"]) for group in groups if "step" in group), None)
