"""What Megatron's configuration knows, read from its source: importing it would import torch.

megatron-core 0.19 declares the fields of its configs as dataclasses, and most stock flags from
those; the rest are ``add_argument`` calls.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, Optional, Union

_OPTION = re.compile(r"""["']--([a-z0-9_-]+)["']""")
_DATACLASS_FIELD = re.compile(r"^    ([a-z]\w*): ", re.MULTILINE)
_NAMES: dict[str, Any] = {
    "Optional": Optional,
    "Union": Union,
    "Literal": Literal,
    "List": list,
    "list": list,
    "Tuple": tuple,
    "tuple": tuple,
    "bool": bool,
    "int": int,
    "float": float,
    "str": str,
}
"""What annotations are made of; a field whose annotation holds anything else is not checked."""

ENGINE_FIELDS: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "tensor_model_parallel_size",
            "pipeline_model_parallel_size",
            "context_parallel_size",
            "expert_model_parallel_size",
            "expert_tensor_parallel_size",
            "sequence_parallel",
        ),
        "the module's grid says it (modules.NAME.grid)",
    ),
    **dict.fromkeys(
        ("params_dtype", "pipeline_dtype", "bf16"),
        "precision says it (train.precision, modules.NAME.precision)",
    ),
    **dict.fromkeys(
        (
            "calculate_per_token_loss",
            "variable_seq_lengths",
            "moe_token_dispatcher_type",
            "deallocate_pipeline_outputs",
            "batch_p2p_comm",
            "gradient_accumulation_fusion",
        ),
        "the engine's schedule and loss stand on its value",
    ),
    "fp16": (
        "fp16 is refused: in core 0.19 each module's optimizer updates its own loss scale before "
        "found-inf is shared (models/mimo/optimizer.py, step), so the scales would drift apart; "
        "use bf16"
    ),
    "fp8": (
        "fp8 is refused: core 0.19 takes the group that amax is reduced over from the global "
        "parallel state (fp8_utils.py, get_fp8_context), which a run of several grids has not; "
        "use bf16"
    ),
    "fp4": (
        "fp4 is refused: core 0.19 takes the group that amax is reduced over from the global "
        "parallel state (fp4_utils.py, get_fp4_context), which a run of several grids has not; "
        "use bf16"
    ),
    **dict.fromkeys(
        ("hierarchical_context_parallel_sizes", "hybrid_context_parallel"),
        "every sample is shared by the whole context-parallel group (modules.NAME.grid.cp): core "
        "0.19 makes the groups that this needs in its global parallel state alone",
    ),
    **dict.fromkeys(
        ("enable_cuda_graph", "external_cuda_graph", "cuda_graph_scope"),
        "core 0.19 calls it deprecated; write cuda_graph_impl and cuda_graph_modules",
    ),
    **dict.fromkeys(
        ("tp_comm_overlap", "distribute_saved_activations", "config_logger_dir"),
        "core 0.19 takes the tensor-parallel group for it from its global parallel state, which a "
        "run of several grids has not",
    ),
    "inference_cuda_graph_scope": "it is of graphs of inference, and nothing here infers",
    "virtual_pipeline_model_parallel_size": (
        "virtual pipeline stages are refused: core 0.19's schedule across grids knows none "
        "(MultiModulePipelineCommunicator)"
    ),
}
"""Fields of ``TransformerConfig`` that a recipe may not set, and why."""

ENGINE_FLAGS = frozenset(
    (
        *("num_layers", "hidden_size", "num_attention_heads", "seq_length"),
        *("max_position_embeddings", "tokenizer_type", "vocab_size"),
        *("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size"),
        *("micro_batch_size", "global_batch_size", "train_iters", "train_samples"),
        *("lr", "min_lr", "lr_warmup_iters", "lr_decay_style", "weight_decay", "clip_grad"),
        *("seed", "bf16", "dataloader_type", "use_distributed_optimizer"),
        *("calculate_per_token_loss", "eval_iters", "eval_interval", "save", "save_interval"),
        "persistent_save_interval",
        *("ckpt_format", "data_parallel_random_init", "load", "pretrained_checkpoint"),
        *("no_save_rng", "no_load_rng"),
        *("override_opt_param_scheduler", "log_interval", "finetune"),
        "no_check_for_nan_in_loss_and_grad",
        *("exit_signal", "exit_signal_handler", "exit_signal_handler_for_training"),
    )
)
"""Stock flags that follow from the rest of the recipe."""

_MODEL = "a module is what its plugin's options say (modules.NAME.options)"
_SAMPLES = "the recipe's data section says what is read, its tokenizer section how"
UNREAD_FLAGS: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *("num_experts", "swiglu", "quick_geglu", "squared_relu", "hybrid_layer_pattern"),
            *("hybrid_override_pattern", "position_embedding_type", "rotary_base"),
            *("rotary_percent", "group_query_attention", "mtp_num_layers", "spec"),
            *("untie_embeddings_and_output_weights", "make_vocab_size_divisible_by", "yaml_cfg"),
        ),
        _MODEL,
    ),
    **dict.fromkeys(
        (
            *("data_path", "train_data_path", "valid_data_path", "test_data_path", "split"),
            *("data_args_path", "per_split_data_args_path", "mock_data", "num_workers"),
            *("tokenizer_model", "vocab_file", "merge_file", "vocab_extra_ids"),
        ),
        _SAMPLES,
    ),
    "rampup_batch_size": "the order of the samples stands on a global batch of one size",
    "tensorboard_dir": "TensorBoard events are in the run folder",
}
"""Stock flags that the stock parser knows and nothing here reads, and why."""

_NEWEST = (
    "the run goes on from the newest complete checkpoint, or from that which the tracker names"
)
REFUSED_FLAGS: Mapping[str, str] = {
    **dict.fromkeys(("ckpt_step", "override_ckpt_iteration", "auto_detect_ckpt_format"), _NEWEST),
    **dict.fromkeys(
        (
            *("non_persistent_ckpt_type", "non_persistent_save_interval"),
            *("non_persistent_global_ckpt_dir", "non_persistent_local_ckpt_dir"),
        ),
        "core 0.19 loads such a checkpoint by its name alone, whole or not "
        "(training/checkpointing.py, _load_base_checkpoint); use checkpoint.save_interval",
    ),
    "async_save": (
        "a checkpoint is complete when rank 0 has seen that all ranks have written theirs, which "
        "core 0.19 finds out in later iterations; checkpoints are saved between iterations"
    ),
    **dict.fromkeys(
        ("no_save_optim", "no_load_optim", "dist_ckpt_strictness"),
        "a run goes on with all of its state; checkpoint.init_from takes weights alone",
    ),
    **dict.fromkeys(
        ("use_megatron_fsdp", "use_torch_fsdp2"),
        "modules are wrapped one by one in core's DistributedDataParallel, whose distributed "
        "optimizer shares out the states; checkpoints and overlap_grad_reduce stand on it",
    ),
    "distrib_optim_fully_reshardable_mem_efficient": (
        "core 0.19 gathers over gloo groups then (optimizer/distrib_optimizer.py, "
        "get_parameter_state_dp_zero), which it makes of its global parallel state; where memory "
        "is short set dist_ckpt_optim_fully_reshardable: false"
    ),
    **dict.fromkeys(
        (
            *("use_precision_aware_optimizer", "exp_avg_dtype", "exp_avg_sq_dtype"),
            *("main_params_dtype", "main_grads_dtype"),
        ),
        "a run is saved with its optimizer's states from its beginning, and core 0.19 makes those "
        "of fewer bits by a call that TransformerEngine's FusedAdam no longer takes "
        "(optimizer/__init__.py, init_state_fn)",
    ),
    **dict.fromkeys(
        (
            *("optimizer_cpu_offload", "optimizer_offload_fraction", "no_pin_cpu_grads"),
            *("no_pin_cpu_params", "overlap_cpu_optimizer_d2h_h2d"),
            "use_torch_optimizer_for_cpu_offload",
        ),
        "a run is saved with its optimizer's states from its beginning, and core 0.19 has no "
        "function that makes those of an optimizer on the CPU (optimizer/__init__.py, "
        "init_state_fn)",
    ),
    **dict.fromkeys(
        ("overlap_param_gather", "overlap_param_gather_with_optimizer_step"),
        "core 0.19 gathers parameters when a forward reaches them; a rank whose encoder has nothing"
        " to see in a microbatch would keep those that have waiting (overlap_grad_reduce works)",
    ),
}
"""Stock flags that would break what a run promises, and why."""


@cache
def transformer_fields() -> Mapping[str, Any]:
    """Fields of ``TransformerConfig`` by name, with their types; ``Any`` where a recipe cannot
    tell whether a value fits, ``None`` where a recipe cannot write one (a function, a dtype)."""
    enums = _enumerations(_source("core/transformer/enums.py"))
    found: dict[str, Any] = {}
    for path, name in (
        ("core/model_parallel_config.py", "ModelParallelConfig"),
        ("core/transformer/transformer_config.py", "TransformerConfig"),
    ):
        for field, annotation in _fields(_source(path), name).items():
            found[field] = _type(annotation, enums)
    return found


@cache
def flags() -> frozenset[str]:
    """Names of stock flags, with underscores: at least all that the stock parser knows."""
    core, training = _root() / "core", _root() / "training"
    known = set()
    for path in (
        core / "fault_injector.py",
        core / "model_parallel_config.py",
        core / "transformer" / "transformer_config.py",
        training / "arguments.py",
        *(training / "config").glob("*.py"),
    ):
        text = path.read_text(encoding="utf-8")
        known |= {name.replace("-", "_") for name in _OPTION.findall(text)}
        known |= set(_DATACLASS_FIELD.findall(text))
    # How the stock parser negates what is true by default.
    negated = {f"{prefix}_{name}" for name in known for prefix in ("no", "disable")}
    return frozenset(known | negated)


@cache
def flag_types() -> Mapping[str, Any]:
    """Types of the values of stock flags, where the source tells them."""
    training = _root() / "training"
    found: dict[str, Any] = {}
    for path in (training / "config").glob("*.py"):
        for config in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(config, ast.ClassDef):
                for name, annotation in _annotated(config).items():
                    found[name] = _type(annotation, {})
    for call in ast.walk(_source("training/arguments.py")):
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "add_argument":
            for option in call.args:
                if isinstance(option, ast.Constant) and str(option.value).startswith("--"):
                    name = str(option.value)[2:].replace("-", "_")
                    found[name] = _option_type({k.arg: k.value for k in call.keywords})
    return {name: kind for name, kind in found.items() if kind not in (None, Any)}


def shared_fields(megatron: Mapping[str, Any]) -> dict[str, Any]:
    """Of a recipe's stock flags, those that are fields of every module's ``TransformerConfig``."""
    return {name: value for name, value in megatron.items() if name in transformer_fields()}


def _root() -> Path:
    spec = importlib.util.find_spec("megatron")
    assert spec is not None and spec.submodule_search_locations is not None
    for location in spec.submodule_search_locations:
        if (Path(location) / "core").is_dir():
            return Path(location)
    raise AssertionError("megatron-core is not installed")


def _source(path: str) -> ast.Module:
    return ast.parse((_root() / path).read_text(encoding="utf-8"))


def _fields(module: ast.Module, name: str) -> dict[str, ast.expr]:
    (found,) = (
        node for node in module.body if isinstance(node, ast.ClassDef) and node.name == name
    )
    return _annotated(found)


def _annotated(cls: ast.ClassDef) -> dict[str, ast.expr]:
    """The fields of a dataclass."""
    return {
        item.target.id: item.annotation
        for item in cls.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }


def _option_type(keywords: Mapping[str | None, ast.expr]) -> Any:
    """The type of an option of ``argparse``."""
    action = keywords.get("action")
    if isinstance(action, ast.Constant):
        return bool if str(action.value).startswith("store_") else Any
    kind: Any = str
    if "type" in keywords:
        kind = _NAMES.get(getattr(keywords["type"], "id", ""), Any)
    choices = keywords.get("choices")
    if isinstance(choices, ast.List | ast.Tuple):
        values = tuple(item.value for item in choices.elts if isinstance(item, ast.Constant))
        kind = Literal[values] if len(values) == len(choices.elts) else Any
    if kind is Any or action is not None:
        return Any
    return kind | list[kind] if "nargs" in keywords else kind


def _enumerations(module: ast.Module) -> dict[str, Any]:
    """Enumerations as the literal names of their members, which is how a recipe writes them."""
    found = {}
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            members = tuple(
                item.targets[0].id
                for item in node.body
                if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name)
            )
            if members:
                found[node.name] = Literal[members]
    return found


def _type(annotation: ast.expr, enums: Mapping[str, Any]) -> Any:
    names = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
    if names & {"Callable", "torch", "ContextManager"}:
        return None
    if names - set(_NAMES) - set(enums):
        return Any
    code = compile(ast.Expression(annotation), "<annotation>", "eval")
    return eval(code, {"__builtins__": {}, **_NAMES, **enums})
