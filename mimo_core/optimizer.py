"""One optimizer a module, one decision for the whole model.

Megatron's ``MimoOptimizer`` shares found-inf, gradient norm, zero count and success over the
world. What it is given differs here:

- every module's learning parameters, none where a module is wholly frozen, each with its own
  precision, learning rate and weight decay;
- what is saved once for all pipeline stages is saved by the first that has it;
- a pipeline stage where nothing learns takes part in the sums of its module's other stages;
- the group that numbers replicas in checkpoints spans data and context parallel ranks (core 0.19
  leaves context parallelism out, so two ranks would claim to be the main replica);
- where gradients are reduced during backward, in several buckets, what is saved of a parameter is
  its own state: :func:`_keep_padding`;
- states of torch's Adam from the start: without TransformerEngine or APEX core's
  ``DistributedOptimizer`` cannot load into an optimizer that has made no step.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.models.mimo.optimizer import MimoOptimizer, ModuleOptimizerInfo
from megatron.core.optimizer import ChainedOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.clip_grads import count_zeros_fp32, get_grad_norm_fp32

from mimo_core.contract import Module
from mimo_core.model.config import DTYPES
from mimo_core.model.mimo import Model
from mimo_core.profile.recorder import span
from mimo_core.weights.keys import optimizer_prefix

STEP = "step"
"""Of Adam, in a module's state."""


class Optimizer(MimoOptimizer):  # type: ignore[misc]
    """Megatron's optimizer of a heterogeneous model."""

    def __init__(
        self,
        infos: dict[str, Any],
        config: OptimizerConfig,
        stages: dict[str, list[int]],
        device: torch.device,
    ) -> None:
        """
        Args:
            infos: The optimizer of each module.
            config: The run's.
            stages: Of each module of this rank, how many optimizers each pipeline stage has (dense
                layers have one, experts another).
            device: Of this rank.
        """
        super().__init__(infos, config)
        self._stages = stages
        self._device = device
        self._sharding_type: str | None = None
        # Core's sums over a module span its stages, but are called by an optimizer alone.
        self._left_out = [
            info.pg_collection.intra_dist_opt
            for name, info in infos.items()
            if info.is_active and not info.optimizer and any(stages[name])
        ]
        self.norms: dict[str, float] = {}
        """Norm of each module's gradient before clipping, of the last step; on all ranks."""

    def step(self) -> tuple[bool, float | None, int | None]:
        """One step of all modules: whether it was taken, the norm, and zeros where counted."""
        with span("optimizer", "optimizer"):
            return super().step()  # type: ignore[no-any-return]

    @torch.no_grad()
    def prepare_grads(self) -> bool:
        """Whether the step must be skipped, on all ranks: any gradient anywhere is not finite.

        Core's finds that with a loss scaler only; without one a single infinite gradient would
        make all of its module's weights NaN.
        """
        found_inf = bool(super().prepare_grads())
        for group in self._left_out:
            get_grad_norm_fp32([], grad_stats_parallel_group=group)
        norms = torch.zeros(len(self.module_infos), device=self._device, dtype=torch.float32)
        for index, info in enumerate(self.module_infos.values()):
            if info.is_active and info.optimizer:
                norms[index] = info.optimizer.get_grad_norm() or 0.0
        # A NaN gets lost where ranks take the largest.
        norms = norms.nan_to_num(nan=torch.inf, posinf=torch.inf)
        dist.all_reduce(norms, op=dist.ReduceOp.MAX)
        self.norms = dict(zip(self.module_infos, norms.tolist(), strict=True))
        return found_inf or not math.isfinite(self.get_grad_norm())

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
        resharded holds none, and core asks for it: :func:`_load_without_steps`).
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
                    if _keeps_steps_in_state(inner.optimizer):
                        group.pop("step", None)
                        for parameter in group["params"]:
                            step = torch.tensor(float(steps[name]))
                            inner.optimizer.state[parameter]["step"] = step

    def _held(self) -> Iterator[tuple[str, list[Any]]]:
        """The optimizers of each module that learns on this rank."""
        for name, info in self.module_infos.items():
            if info.is_active and info.optimizer is not None:
                yield name, info.optimizer.chained_optimizers


def build_optimizer(model: Model, config: OptimizerConfig) -> Optimizer:
    """The optimizer of this rank's modules. Called by all ranks.

    Stands in for ``megatron.core.models.mimo.optimizer.get_mimo_optimizer``.
    """
    infos = {}
    stages: dict[str, list[int]] = {}
    grids = model.mimo_config.module_to_grid_map
    assert grids is not None
    for name, grid in grids.items():
        groups = model.groups.get(name)
        optimizer, replicas = None, None
        if groups is not None:
            module = model.nodes[name]
            # Asked for a frozen module too: core gathers the parameter groups of all ranks here.
            optimizer = get_megatron_optimizer(
                config=_config_of(module, config),
                model_chunks=[model.active(name)],
                pg_collection=groups,
                use_gloo_process_groups=False,
            )
            # A module without experts gets an optimizer for another's, which cannot be saved; one
            # that is frozen, a stub.
            held = [one for one in optimizer.chained_optimizers if getattr(one, "buffers", None)]
            stages[name] = [0] * groups.pp.size()
            dist.all_gather_object(stages[name], len(held), group=groups.pp)
            optimizer = ChainedOptimizer(held) if held else None
            _scale_weight_decay(held, module.weight_decay_factor)
            _initialize_states(held)
            _load_without_steps(held)
            _keep_padding(held)
            replicas = copy.copy(groups)
            replicas.dp = groups.dp_cp
        infos[name] = ModuleOptimizerInfo(
            optimizer=optimizer, grid=grid, pg_collection=replicas, is_active=groups is not None
        )
    return Optimizer(infos, config, stages, next(model.parameters()).device)


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


def _config_of(module: Module, config: OptimizerConfig) -> OptimizerConfig:
    """The run's optimizer with the module's own precision and learning rate."""
    dtype = DTYPES[module.precision]
    return dataclasses.replace(
        config,
        lr=config.lr * module.learning_rate_factor,
        min_lr=config.min_lr * module.learning_rate_factor,
        bf16=dtype is torch.bfloat16,
        params_dtype=dtype,
    )


def _scale_weight_decay(optimizers: list[Any], factor: float) -> None:
    """The scheduler decays every group with the run's weight decay times its ``wd_mult``."""
    for inner in optimizers:
        for group in inner.param_groups:
            group["wd_mult"] *= factor


def _initialize_states(optimizers: list[Any]) -> None:
    """Give Adam the state that it would make in its first step: a run can be saved before it."""
    for inner in optimizers:
        adam = inner.optimizer
        if not _keeps_steps_in_state(adam):
            inner.init_state_fn(adam, inner.config)
            continue
        for group in adam.param_groups:
            for parameter in group["params"]:
                adam.state[parameter] = {
                    "step": torch.tensor(0.0),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }


def _load_without_steps(optimizers: list[Any]) -> None:
    """Hide the steps of torch's Adam from core, which looks for each in a state that can be
    resharded and holds none (``DistributedOptimizer._set_main_param_and_optimizer_states``).
    ``Optimizer.load_state_dict`` puts them back."""

    def hiding(inner: Any, load: Callable[[Any], None]) -> Callable[[Any], None]:
        def load_without_steps(state: Any) -> None:
            for of_parameter in inner.optimizer.state.values():
                of_parameter.pop("step", None)
            load(state)

        return load_without_steps

    for inner in optimizers:
        if _keeps_steps_in_state(inner.optimizer):
            inner.load_parameter_state_from_fully_reshardable = hiding(
                inner, inner.load_parameter_state_from_fully_reshardable
            )


def _keep_padding(optimizers: list[Any]) -> None:
    """Gather states as the buffers lie, with the padding between their buckets.

    Core 0.19 leaves the padding out (``DistributedOptimizer.get_parameter_state_dp_zero``), and
    then looks parameters up where they lie in the buffers
    (``sharded_param_state_fully_reshardable``): from the second bucket on, each would be saved with
    a part of another's state.
    """

    def keeping(inner: Any, gather: Callable[..., Any]) -> Callable[..., Any]:
        def get_parameter_state_dp_zero(*args: Any, **kwargs: Any) -> Any:
            state = gather(*args, **kwargs)
            for number, buffer in enumerate(inner.buffers if state is not None else ()):
                for tensors in state[number].values():
                    for key, tensor in tensors.items():
                        if isinstance(tensor, torch.Tensor):
                            tensors[key] = _with_padding(tensor, buffer)
            return state

        return get_parameter_state_dp_zero

    for inner in optimizers:
        inner.get_parameter_state_dp_zero = keeping(inner, inner.get_parameter_state_dp_zero)


def _with_padding(gathered: torch.Tensor, buffer: Any) -> torch.Tensor:
    """Of the buckets of a buffer, one after another, ``[unpadded]``: as they lie in it."""
    laid = gathered.new_zeros(buffer.numel)
    for bucket, part in zip(
        buffer.buckets,
        gathered.split([each.numel_unpadded for each in buffer.buckets]),
        strict=True,
    ):
        laid[bucket.offset : bucket.offset + bucket.numel_unpadded] = part
    return laid


def _keeps_steps_in_state(optimizer: Any) -> bool:
    """torch's Adam counts steps in every parameter's state; TransformerEngine's in its groups."""
    return isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW)
