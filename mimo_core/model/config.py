"""A module's ``TransformerConfig``: the plugin says the architecture, the core the rest."""

from __future__ import annotations

import dataclasses
from enum import Enum
from typing import Any

import torch
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import CudaGraphModule

from mimo_core.contract import ModuleConfig
from mimo_core.errors import MimoError, PluginError
from mimo_core.model.config_reads import watched_config
from mimo_core.model.cuda_graphs import encoder
from mimo_core.model.cuda_graphs.layers import experts_of_graphs

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def transformer_config(
    module: ModuleConfig, *, sequence_parallel: bool = False, **architecture: Any
) -> TransformerConfig:
    """The config of one module on its grid.

    What follows from grid, precision and training method is set here, once for all plugins;
    ``architecture`` adds what the model itself is (layers, widths, heads, activations, …). Fields
    that the recipe sets for the module come last: the plan has refused those that are the core's,
    or that the plugin's description owns.

    Args:
        module: The module to configure.
        sequence_parallel: Split the sequence between layers over tp; ignored where tp is 1.

    Raises:
        PluginError: ``architecture`` sets what the core sets.
        TypeError: it names no field of the config.
        MimoError: Megatron does not take the recipe's fields for this module.
    """
    grid = module.grid
    dtype = DTYPES[module.precision]
    engine = dict(
        tensor_model_parallel_size=grid.tp,
        pipeline_model_parallel_size=grid.pp,
        context_parallel_size=grid.cp,
        expert_model_parallel_size=grid.ep,
        expert_tensor_parallel_size=grid.etp,
        sequence_parallel=sequence_parallel and grid.tp > 1,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype is torch.bfloat16,
        # One loss sum and one token count for all modules: see mimo_core.train.finalize_grads.
        calculate_per_token_loss=True,
        # The cross-grid schedule of core refuses fixed shapes; with variable ones it asks for this
        # dispatcher, of models without experts too.
        variable_seq_lengths=True,
        moe_token_dispatcher_type="alltoall",
        deallocate_pipeline_outputs=True,
        batch_p2p_comm=True,
        # Needs APEX.
        gradient_accumulation_fusion=False,
    )
    taken = sorted(set(engine) & set(architecture))
    if taken:
        raise PluginError(
            f"transformer_config sets {', '.join(taken)} itself",
            code="megatron.engine-field",
            module=module.name,
            fields=tuple(taken),
        )
    fields = architecture | _from_recipe(module)
    experts_captured = experts_of_graphs(fields)
    try:
        config = watched_config(module.name, _from_recipe(module), engine | fields)
    except (AssertionError, ValueError) as error:
        asked = ", ".join(f"{name}: {value}" for name, value in module.megatron.items())
        if not asked:
            raise
        raise MimoError(
            f"modules.{module.name}.megatron: Megatron does not take these fields for plugin "
            f"{module.plugin!r}, with those that the recipe's megatron section adds ({asked}): "
            f"{error}",
            code="megatron.refused-value",
            module=module.name,
            plugin=module.plugin,
            fields=dict(module.megatron),
            cause=str(error),
        ) from None
    if experts_captured:
        config.cuda_graph_modules.append(CudaGraphModule.moe)
    return config


def _from_recipe(module: ModuleConfig) -> dict[str, Any]:
    """The recipe's fields; members of enumerations are written by their names there.

    Graphs of an encoder's tower are not its layers' own, which would capture themselves.
    """
    taken = () if module.is_language else (encoder.FIELD,)
    defaults = {field.name: field.default for field in dataclasses.fields(TransformerConfig)}
    return {
        name: type(default)[value] if isinstance(default := defaults[name], Enum) else value
        for name, value in module.megatron.items()
        if name not in taken
    }
