"""The optimizer of a rank's modules."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.models.mimo.optimizer import ModuleOptimizerInfo
from megatron.core.optimizer import ChainedOptimizer, OptimizerConfig, get_megatron_optimizer

from mimo_core.contract import ModuleConfig
from mimo_core.model.config import DTYPES
from mimo_core.model.mimo_model import RankMimoModel
from mimo_core.optimizer.optimizer import Optimizer
from mimo_core.optimizer.states import include_bucket_padding, initialize_states, load_without_steps


def build_optimizer(model: RankMimoModel, config: OptimizerConfig) -> Optimizer:
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
            _scale_weight_decay(held, module.wd_mult)
            initialize_states(held)
            load_without_steps(held)
            include_bucket_padding(held)
            replicas = copy.copy(groups)
            replicas.dp = groups.dp_cp
        infos[name] = ModuleOptimizerInfo(
            optimizer=optimizer, grid=grid, pg_collection=replicas, is_active=groups is not None
        )
    return Optimizer(infos, config, stages, model)


def _config_of(module: ModuleConfig, config: OptimizerConfig) -> OptimizerConfig:
    """The run's optimizer with the module's own precision and learning rate."""
    dtype = DTYPES[module.precision]
    return dataclasses.replace(
        config,
        lr=config.lr * module.lr_mult,
        min_lr=config.min_lr * module.lr_mult,
        bf16=dtype is torch.bfloat16,
        params_dtype=dtype,
    )


def _scale_weight_decay(optimizers: list[Any], factor: float) -> None:
    """The scheduler decays every group with the run's weight decay times its ``wd_mult``."""
    for inner in optimizers:
        for group in inner.param_groups:
            group["wd_mult"] *= factor
