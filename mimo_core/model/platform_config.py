"""Fields of a recipe's ``modules.NAME.megatron`` that say how a GPU computes.

The same recipe runs on CPUs, where Megatron would refuse them by what is not installed, or fail
where it first computes.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from mimo_core.contract import ModuleConfig
from mimo_core.errors import MimoError
from mimo_core.planning.model_graph import Graph
from mimo_core.platforms.base import RankPlatform

_GRAPHS, _GRAPHED = "cuda_graph_impl", "cuda_graph_"
_KERNELS = (
    *("apply_rope_fusion", "moe_permute_fusion", "moe_router_fusion", "fused_residual_rmsnorm"),
    *("fused_single_qkv_rope", "use_te_activation_func", "use_transformer_engine_op_fuser"),
    *("persist_layer_norm", "memory_efficient_layer_norm", "cpu_offloading"),
    "fine_grained_activation_offloading",
)
_OFFLOADING = (
    *("cpu_offloading_num_layers", "cpu_offloading_activations", "cpu_offloading_weights"),
    *("cpu_offloading_double_buffering", "offload_modules"),
)
"""Read with others of these alone."""
_ATTENTION, _SCAN = "attention_backend", "use_mamba_mem_eff_path"
_PARTS = "recompute_modules"
_LOSS = ("cross_entropy_fusion_impl", "cross_entropy_loss_fusion")


def drop_unsupported_fields(module: ModuleConfig, platform: RankPlatform) -> ModuleConfig:
    """The module with what this machine can do of its fields of ``TransformerConfig``.

    Graphs need a GPU; what TransformerEngine computes needs that.

    Raises:
        MimoError: a part cannot be recomputed here.
    """
    if not platform.transformer_engine and "layernorm" in (module.megatron.get(_PARTS) or ()):
        raise MimoError(
            f"modules.{module.name}.megatron.{_PARTS}: layernorm needs TransformerEngine "
            "(megatron-core 0.19 asks its FP8 state whatever the precision is, in "
            "CheckpointWithoutOutputFunction); leave layernorm out on this machine",
            code="megatron.recomputation",
            module=module.name,
            value="layernorm",
        )
    unread = set(_unread(module, platform))
    fields = {name: value for name, value in module.megatron.items() if name not in unread}
    return attrs.evolve(module, megatron=fields) if unread else module


def notes(graph: Graph, platform: RankPlatform) -> Iterator[str]:
    """What the recipe asks for that this machine has not."""
    machine = "on CPUs" if platform.name == "cpu" else "without TransformerEngine"
    modules: dict[tuple[str, ...], list[str]] = {}
    for name, module in graph.modules.items():
        modules.setdefault(tuple(_unread(module, platform)), []).append(name)
    for unread, names in modules.items():
        if unread:
            verb = "is" if len(unread) == 1 else "are"
            yield f"{', '.join(names)}: {', '.join(unread)} {verb} not read {machine}"


def _unread(module: ModuleConfig, platform: RankPlatform) -> Iterator[str]:
    fields = module.megatron
    if platform.name == "cpu" and fields.get(_GRAPHS, "none") != "none":
        yield from (name for name in fields if name.startswith(_GRAPHED))
    if platform.name == "cpu" and fields.get(_SCAN) is False:
        yield _SCAN
    if not platform.transformer_engine:
        yield from (name for name in _KERNELS if fields.get(name))
        yield from (name for name in _OFFLOADING if name in fields)
        if fields.get(_ATTENTION) in ("flash", "fused"):
            yield _ATTENTION
        if fields.get(_LOSS[0]) == "te":
            yield from (name for name in _LOSS if name in fields)


__all__ = ["drop_unsupported_fields", "notes"]
