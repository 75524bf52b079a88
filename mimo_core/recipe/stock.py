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
        *("ckpt_format", "data_parallel_random_init", "load", "pretrained_checkpoint"),
        *("override_opt_param_scheduler", "log_interval", "finetune"),
    )
)
"""Stock flags that follow from the rest of the recipe."""


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
    return {
        item.target.id: item.annotation
        for item in found.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }


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
