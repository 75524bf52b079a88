"""Looks at megatron as it is installed, for what mimo_core adapts in it."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.distributed.checkpoint

PASSES = {"forward_step", "backward_step", "backward_step_multimodule"}


def reasons(platform: Any) -> dict[str, bool]:
    """By adaptation: whether megatron still gives the reason for it."""
    import megatron.core.models.mimo.optimizer as mimo_optimizer
    from megatron.core import dist_checkpointing, optimizer, parallel_state
    from megatron.core.datasets.utils import compile_helpers
    from megatron.core.dist_checkpointing.strategies.filesystem_async import (
        get_write_results_queue,
    )
    from megatron.core.distributed import param_and_grad_buffer
    from megatron.core.extensions import transformer_engine as te_extension
    from megatron.core.hyper_comm_grid import HyperCommGrid
    from megatron.core.models.mimo.config.role import ModuleLayout, RankRole
    from megatron.core.models.mimo.model.base import MimoModel
    from megatron.core.models.mimo.partition.utils import PartitionAdapter
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
    from megatron.core.pipeline_parallel import schedules
    from megatron.core.ssm import mamba_context_parallel
    from megatron.core.tensor_parallel import layers as tensor_parallel_layers
    from megatron.core.transformer import attention, transformer_config
    from megatron.core.transformer.dot_product_attention import DotProductAttention
    from megatron.core.transformer.moe import moe_utils, router, token_dispatcher
    from megatron.training import (
        arguments,
        checkpointing,
        dist_signal_handler,
        global_vars,
        initialize,
        training,
    )
    from torch.distributed.checkpoint.api import CheckpointException

    grid = HyperCommGrid(shape=[1, 1], dim_names=["tp", "pp"], backend=platform.backend)
    grid.create_pg("pp")
    schedule = schedules.forward_backward_pipelining_without_interleaving
    load = inspect.getsource(DistributedOptimizer.load_state_dict)
    return {
        "metadata of checkpoints is read by pickle.load": "pickle.load("
        in inspect.getsource(torch.distributed.checkpoint.FileSystemReader.read_metadata),
        "objects of checkpoints run code": "weights_only=False"
        in inspect.getsource(torch.distributed.checkpoint.DefaultLoadPlanner.load_bytes),
        "a common.pt is taken": "load_common("
        in inspect.getsource(dist_checkpointing.load_common_state_dict),
        "attention looks for its split where TransformerEngine has none": (
            "from transformer_engine.pytorch.attention import _SplitAlongDim"
            in inspect.getsource(te_extension)
            and hasattr(attention, "SplitAlongDim")
        ),
        "core's linear layers accumulate in products with APEX alone": (
            "fused_weight_gradient_mlp_cuda" in inspect.getsource(tensor_parallel_layers)
        ),
        "experts are captured where tokens are dropped alone": (
            "moe cuda graph is only supported with drop-padding MoE"
            in inspect.getsource(transformer_config)
        ),
        "buffers take parameters from the last to the first": "params_with_names[::-1]"
        in inspect.getsource(param_and_grad_buffer._ParamAndGradBuffer),
        "the dispatcher waits for counts of experts that are all here": (
            '_maybe_update_cuda_sync_point("before_finish")'
            in inspect.getsource(token_dispatcher.MoEAlltoAllTokenDispatcher.preprocess)
        ),
        "router losses are weighed by the positions that a router sees": (
            "num_local_tokens * self.tp_cp_group.size()"
            in inspect.getsource(router.TopKRouter.attach_and_log_load_balancing_loss)
        ),
        "the z-loss is a mean of the ranks' means": "moe_z_loss_coeff / self.tp_cp_group.size()"
        in inspect.getsource(router.TopKRouter.apply_z_loss),
        "expert capacity counts padding": "padding_mask"
        not in inspect.getsource(moe_utils.apply_router_token_dropping),
        "a bf16 model counts tokens in bf16": "local_tokens_per_expert"
        not in inspect.getsource(router.TopKRouter._maintain_float32_expert_bias),
        "compile_helpers runs make without a Makefile": _exits(compile_helpers),
        "the start compiles functions in the arguments' sizes": (
            "args.ffn_hidden_size" in inspect.getsource(initialize._warmup_jit_function)
            and "_warmup_jit_function(" in inspect.getsource(initialize.set_jit_fusion_options)
        ),
        "a language model alone is taken for colocated": RankRole.build([], {"language": grid}).mode
        is ModuleLayout.COLOCATED,
        "the memory buffer waits for initialize_model_parallel": (
            parallel_state._GLOBAL_MEMORY_BUFFER is None
        ),
        "containers have no config": not hasattr(_container(), "config"),
        "containers drop direct parameters": _drops_direct_parameters(),
        "replica numbers leave context parallelism out": "cp"
        not in inspect.getsource(mimo_optimizer._get_replica_id).split("return")[-1],
        "parameter groups are saved by each of a module's optimizers": "suffix}.param_groups"
        in inspect.getsource(mimo_optimizer._extract_param_groups),
        "a state that can be resharded must hold steps and holds none": "step"
        not in inspect.getsource(DistributedOptimizer._set_main_param_and_optimizer_states)
        and "== 'step'"
        in inspect.getsource(DistributedOptimizer.sharded_param_state_fully_reshardable),
        "states of fewer bits are made without saying how their rest is kept, those of an "
        "optimizer on the CPU not at all": all(
            text in inspect.getsource(optimizer)
            for text in ("opt.initialize_state(p)\n", "init_state_fn = None")
        ),
        "random states are one object of the grid's shape": "(pp_size, tp_size)"
        in inspect.getsource(checkpointing.get_rng_state),
        "a tracker without a number ends the process": "sys.exit()"
        in inspect.getsource(checkpointing.read_metadata),
        "the tracker is written in place, after dist_checkpointing.save": inspect.getsource(
            checkpointing.save_checkpoint
        ).index("dist_checkpointing.save(")
        < inspect.getsource(checkpointing.save_checkpoint).index("open(tracker_filename, 'w')"),
        "what is not asked for is left out on loading": "ASSUME_OK_UNEXPECTED"
        in str(inspect.signature(dist_checkpointing.load).parameters["strict"].default),
        "local attention refuses packed sequences": "assert packed_seq_params is None"
        in inspect.getsource(DotProductAttention.forward),
        "local attention refuses context parallelism": "context_parallel_size == 1"
        in inspect.getsource(DotProductAttention.__init__),
        "positions of packed rows are TransformerEngine's to tell": "thd_get_partitioned_indices"
        in inspect.getsource(PartitionAdapter)
        and "thd_get_partitioned_indices" in inspect.getsource(mamba_context_parallel),
        "what cannot be loaded is told without its folder": issubclass(
            CheckpointException, BaseException
        )
        and not issubclass(CheckpointException, Exception),
        "importing its configuration imports torch": "import torch"
        in inspect.getsource(transformer_config),
        "torch's Adam shares one step": 's["step"] = step' in load,
        "loading writes parameters with gradients on": "no_grad" not in load,
        "checkpoint keys count wrappers": "'module.'"
        in inspect.getsource(MimoModel.sharded_state_dict),
        "a strict load is retried loosely": "strict=False"
        in inspect.getsource(checkpointing.load_checkpoint),
        "a signal is gathered from every rank, one by one": "elem.item() for elem in"
        in inspect.getsource(dist_signal_handler.all_gather_item),
        "evaluation ends in train mode for everything": "model_module.train()"
        in inspect.getsource(training.evaluate),
        "TensorBoard is written by the last world rank": "world_size - 1"
        in inspect.getsource(global_vars._set_tensorboard_writer),
        "data parallelism is derived from the world size": "args.world_size // total_model_size"
        in inspect.getsource(arguments.validate_args),
        "exit flags end the process": "sys.exit(exit_code)" in inspect.getsource(training.train),
        "the checkpoint queue is made by spawning": (
            inspect.signature(get_write_results_queue).parameters["mp_mode"].default == "spawn"
        ),
        "passes are found by their global names": set(schedule.__code__.co_names) >= PASSES,
        "timers leave a backward pass out": "timers"
        not in inspect.getsource(schedules.backward_step_multimodule),
        "the step is found by its global name": {"train_step", "evaluate"}
        <= set(training.train.__code__.co_names)
        | set(training.evaluate_and_print_results.__code__.co_names),
    } | _cuda_is_assumed()


def _exits(call: Any) -> bool:
    try:
        call()
    except SystemExit:
        return True
    return False


def _container_class() -> type:
    from megatron.core.models.mimo.submodules.base import ModalitySubmodules

    class Container(ModalitySubmodules):  # type: ignore[misc]
        def decode(self, embeddings: Any, data_batch: Any) -> Any: ...

    return Container


def compiled_at_the_start(platform: Any) -> list[str]:
    """What Megatron's start compiles of functions for layers, once its loop is adapted."""
    from megatron.core.models.mimo.optimizer import get_mimo_optimizer
    from megatron.training import initialize, training

    from mimo_core.megatron_patches.training_loop import patch_training_loop

    compiled: list[str] = []
    for name in ("bias_gelu", "bias_swiglu", "bias_dropout_add_fused_train"):
        setattr(initialize, name, lambda *_, name=name: compiled.append(name))
    patch_training_loop(
        train_step=lambda stock: stock,
        evaluate=lambda stock: stock,
        build_optimizer=get_mimo_optimizer,
    )
    training.set_jit_fusion_options(tp_size=1)
    return compiled


def _container() -> Any:
    return _container_class()()


def _drops_direct_parameters() -> bool:
    container = _container()
    container.register_parameter("scale", torch.nn.Parameter(torch.ones(1)))
    return not container.sharded_state_dict()


def _cuda_is_assumed() -> dict[str, bool]:
    from megatron.training import initialize

    source = inspect.getsource(initialize.initialize_megatron)
    return {"training asserts a GPU": "assert torch.cuda.is_available()" in source}
