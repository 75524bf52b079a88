"""Whether Megatron's settings in a recipe are known, are the user's to set, and fit their types."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import attrs

from mimo_core.contract import ModuleConfig
from mimo_core.errors import Problem, nearest, suggestion
from mimo_core.planning.model_graph import Graph
from mimo_core.recipe import LoadedRecipe, megatron_schema
from mimo_core.recipe.converter import structure
from mimo_core.recipe.megatron_flags import ENGINE_KEYS, FREE_FLAGS, LISTED, refusal

_IMPLEMENTATION, _PARTS = "cuda_graph_impl", "cuda_graph_modules"
CONFLICT = "megatron.conflict"
_RANGES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        ("adam_beta1", "adam_beta2"), (lambda beta: 0 <= beta < 1, "at least 0 and below 1")
    ),
    "adam_eps": (lambda eps: eps > 0, "above 0"),
}
"""Of flags: what ``torch.optim`` takes, which would refuse others on the ranks."""
GRAPHED = ("mamba", "attn", "moe")
"""Parts whose kernels and shapes are the same in every microbatch, and wait for nothing."""


def problems(loaded: LoadedRecipe, graph: Graph) -> Iterator[Problem]:
    """What is wrong with the recipe's ``megatron`` section and with those of its modules."""
    recipe = loaded.recipe
    owned = {
        name: dict.fromkeys(graph.descriptions[name].owned_config_fields, name)
        for name in graph.modules
    }
    everywhere = {field: module for fields in owned.values() for field, module in fields.items()}
    for flag, value in recipe.megatron.items():
        found = _flag(flag, value, everywhere, graph)
        if found:
            yield attrs.evolve(found, path=("megatron", flag))
    together = ("overlap_grad_reduce", "save_wgrads_interval")
    if all(recipe.megatron.get(flag) for flag in together):
        yield Problem(
            "does not go with overlap_grad_reduce: core 0.19 would reduce some gradients whole and "
            "some in shards; leave one of both out",
            CONFLICT,
            ("megatron", together[1]),
        )
    for name, module in recipe.modules.items():
        for field, value in module.megatron.items():
            found = _field(field, value, owned[name], graph)
            if found:
                yield attrs.evolve(found, path=("modules", name, "megatron", field))
        for field, message in _recomputation(graph.modules[name].megatron):
            inner = ("modules", name) if field in module.megatron else ()
            yield Problem(message, "megatron.recomputation", (*inner, "megatron", field))
        overlapped = bool(recipe.megatron.get("overlap_grad_reduce"))
        own = module.megatron
        captures = graph.descriptions[name].graphable_layers
        for field, message in _cuda_graphs(
            graph.modules[name], own, captures, overlapped=overlapped
        ):
            yield Problem(message, "megatron.cuda-graphs", ("modules", name, "megatron", field))


def _recomputation(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Fields that core 0.19 wants together (``TransformerConfig.__post_init__``)."""
    whole = ("recompute_method", "recompute_num_layers")
    granularity = fields.get("recompute_granularity")
    layers = fields.get(whole[1])
    if type(layers) is int and layers < 1:
        yield whole[1], f"must be at least 1 (layers that are recomputed together), got {layers}"
    if fields.get("recompute_modules") is not None and granularity != "selective":
        yield (
            "recompute_modules",
            "goes with recompute_granularity: selective alone; set that, or leave it out",
        )
    if granularity == "full":
        missing = [name for name in whole if fields.get(name) is None]
        if missing:
            yield (
                "recompute_granularity",
                f"full recomputation needs {' and '.join(missing)} too (such as uniform, 1)",
            )
        return
    for name in whole:
        if fields.get(name) is not None:
            yield name, "goes with recompute_granularity: full alone; set that, or leave it out"


def _cuda_graphs(
    module: ModuleConfig,
    own: Mapping[str, Any],
    captures: frozenset[str] | None,
    *,
    overlapped: bool,
) -> Iterator[tuple[str, str]]:
    """Whether layers of the language model, or an encoder's tower, can be captured as CUDA graphs;
    see ``mimo_core.model.cuda_graphs.layers`` and ``tower_graphs``.

    Args:
        module: With the fields that act on it.
        own: The fields of its own section of the recipe.
        captures: Parts of its layers that can be captured, where its plugin tells.
        overlapped: Whether gradients are reduced during backward.
    """
    kind = own.get(_IMPLEMENTATION, "none")
    asked = kind != "none" or _PARTS in own
    if _PARTS in own and not module.is_language:
        yield (
            _PARTS,
            "names parts of the language model's layers, and a tower that does not learn is "
            f"captured whole, by {_IMPLEMENTATION}: local alone; leave {_PARTS} out",
        )
    elif kind in ("transformer_engine", "full_iteration"):
        yield (
            _IMPLEMENTATION,
            f"{kind!r} is refused: core 0.19 captures so what its own loop built, one model without"
            " encoders (training/training.py); use local",
        )
    elif wrong := structure(Literal["local", "none"], kind)[1]:  # type: ignore[arg-type]
        yield _IMPLEMENTATION, wrong[0].message
    elif kind == "local" and not module.is_language:
        for said in _tower(module):
            yield _IMPLEMENTATION, said
        for field in own:
            if field.startswith("cuda_graph_") and field != _IMPLEMENTATION:
                yield field, "is of graphs of layers, and a tower is captured whole; leave it out"
    elif kind == "local":
        yield from _captured(own.get(_PARTS), module, captures)
        for hindrance, why in _hindrances(module, overlapped=overlapped).items():
            yield _IMPLEMENTATION, f"does not go with {hindrance}: {why}; leave one of both out"
    elif asked:
        yield (
            _PARTS,
            f"nothing is captured with {_IMPLEMENTATION}: none, the default; set "
            f"{_IMPLEMENTATION}: local, or leave it out",
        )


def _tower(module: ModuleConfig) -> Iterator[str]:
    """What hinders the capture of an encoder's tower, and the way out."""
    if "encoder" not in module.freeze:
        yield (
            "a tower is captured where it does not learn, as its graph has no backward; add "
            f"encoder to modules.{module.name}.freeze, or leave {_IMPLEMENTATION} out"
        )
    together = "its ranks would send messages within the graph, which was not tried"
    for size in ("tp", "cp", "pp", "ep", "etp"):
        number = getattr(module.grid, size)
        if number > 1:
            yield f"does not go with grid {size} {number}: {together}; leave one of both out"
    if module.wrappers:
        yield "does not go with wrappers: not tried with it; leave one of both out"


def _captured(
    parts: object, module: ModuleConfig, captures: frozenset[str] | None
) -> Iterator[tuple[str, str]]:
    """Whether these parts of layers can be in graphs."""
    if isinstance(parts, list) and "mlp" in parts:
        yield (
            _PARTS,
            "mlp is refused: core 0.19 cannot build a layer of an MLP alone with it, as it asks "
            "whether the layer is of experts before that is known "
            "(TransformerLayer.create_mcore_cudagraph_manager), and an MLP beside attention is "
            "captured with attn; leave mlp out",
        )
        return
    if not isinstance(parts, list) or not parts or any(part not in GRAPHED for part in parts):
        yield _PARTS, f"must list what is captured, of {', '.join(GRAPHED)}, got {parts!r}"
        return
    for part in dict.fromkeys(parts):
        if parts.count(part) > 1:
            yield _PARTS, f"lists {part} {parts.count(part)} times; list it once"
        if captures is not None and part not in captures:
            there = ", ".join(sorted(captures)) or "none of these parts"
            yield (
                _PARTS,
                f"{part} captures nothing of this model, whose layers have {there}; leave {part} "
                "out",
            )
    if "moe" not in parts:
        return
    grid = module.grid
    varying = "experts of one rank get another number of tokens every time"
    scattered = {
        f"grid ep {grid.ep}: {varying}": grid.ep > 1,
        f"grid etp {grid.etp}: {varying}": grid.etp > 1,
        "precision fp32: experts are computed one after another": module.precision == "fp32",
        "moe_shared_expert_overlap: it computes on a stream of its own": bool(
            module.megatron.get("moe_shared_expert_overlap")
        ),
    }
    for hindrance in (name for name, there in scattered.items() if there):
        yield _PARTS, f"moe does not go with {hindrance}; leave one of both out"


def _hindrances(module: ModuleConfig, *, overlapped: bool) -> dict[str, str]:
    """What of the module does not go with graphs of its layers, each with the reason."""
    untried = "not tried with it"
    grid, granularity = module.grid, module.megatron.get("recompute_granularity")
    recomputed = {
        "full": "core 0.19 takes it with a graph of the whole iteration alone "
        "(TransformerConfig.__post_init__)"
    }
    found = {
        f"grid tp {grid.tp}": (grid.tp > 1, untried),
        f"grid cp {grid.cp}": (grid.cp > 1, untried),
        f"grid pp {grid.pp}": (
            grid.pp > 1,
            "core 0.19 captures a layer once for every microbatch of a step then "
            "(CudaGraphManager.reuse_cudagraphs), which was not tried",
        ),
        "packing": (module.packing, "rows have many lengths, and a graph is of one shape"),
        f"recompute_granularity {granularity}": (
            granularity is not None,
            recomputed.get(str(granularity), untried),
        ),
        "freeze": (bool(module.freeze), untried),
        "wrappers": (bool(module.wrappers), untried),
        "megatron.overlap_grad_reduce": (overlapped, untried),
    }
    return {name: why for name, (there, why) in found.items() if there}


def _flag(flag: str, value: Any, owned: Mapping[str, str], graph: Graph) -> Problem | None:
    fields = megatron_schema.transformer_fields()
    owned_by_engine = flag in megatron_schema.ENGINE_FLAGS
    if flag in fields and not owned_by_engine and not flag.startswith("cuda_graph_"):
        return _field(flag, value, owned, graph)
    if flag in megatron_schema.REFUSED_FLAGS and value is False:
        return None
    if refused := _refused(flag):
        instead = {"instead": key} if (key := ENGINE_KEYS.get(flag)) else {}
        return Problem(refused, "megatron.refused-flag", values={"flag": flag, **instead})
    if flag == "optimizer" and value != "adam":
        return Problem(
            f"optimizer {value!r} is refused: the distributed optimizer of core 0.19, which every "
            "module has, takes adam alone; leave it out",
            "megatron.refused-flag",
            values={"flag": flag, "instead": "adam"},
        )
    if flag not in FREE_FLAGS:
        message = f"megatron-core has no flag --{flag.replace('_', '-')}.{_near(flag)}".rstrip(".")
        near = nearest(flag, _all_flags())
        return Problem(message, "megatron.unknown-flag", values={"flag": flag, "nearest": near})
    if flag == "ddp_bucket_size" and isinstance(value, int) and value < 1:
        message = f"must be at least 1 (parameters of a bucket), got {value}"
        return Problem(message, "recipe.out-of-range", values={"value": value, "least": 1})
    kind = megatron_schema.flag_types().get(flag)
    wrong = structure(kind, value)[1] if kind is not None else []
    if not wrong and flag in _RANGES and not _RANGES[flag][0](value):
        message = f"must be {_RANGES[flag][1]}, got {value}"
        return Problem(message, "recipe.out-of-range", values={"value": value})
    return wrong[0] if wrong else None


def _refused(flag: str) -> str | None:
    """Why a recipe may not set a stock flag, whatever its value; ``None`` where it may, or where
    there is no such flag."""
    fields = megatron_schema.transformer_fields()
    if flag in megatron_schema.ENGINE_FLAGS:
        name, key = f"--{flag.replace('_', '-')}", ENGINE_KEYS.get(flag)
        if key is None:
            return f"{name} is set by the engine; leave it out of the megatron section"
        return f"{name} is set by the engine from {key}; leave it out of the megatron section"
    if flag.startswith("cuda_graph_"):
        return (
            "CUDA graphs are asked for where they are wanted, in the language model or an encoder "
            f"that does not learn; write modules.NAME.megatron.{flag}"
        )
    for prefix in ("no_", "disable_"):
        field = flag.removeprefix(prefix)
        if field != flag and field in fields:
            return f"modules are configured by fields of TransformerConfig; write {field}: false"
    if flag in megatron_schema.UNREAD_FLAGS:
        return f"nothing reads this flag here: {megatron_schema.UNREAD_FLAGS[flag]}; leave it out"
    if flag in megatron_schema.REFUSED_FLAGS:
        return f"this flag is refused: {megatron_schema.REFUSED_FLAGS[flag]}; leave it out"
    return refusal(flag)


def _all_flags() -> set[str]:
    return {*LISTED, *megatron_schema.ENGINE_FLAGS, *megatron_schema.transformer_fields()}


def _near(flag: str) -> str:
    """The flag that was probably meant, and what is instead of it where a recipe may not set it."""
    near = nearest(flag, _all_flags())
    if near is None:
        return ""
    refused = _refused(near)
    return f" Did you mean {near!r}?" + (f" {refused}" if refused else "")


def _field(field: str, value: Any, owned: Mapping[str, str], graph: Graph) -> Problem | None:
    fields = megatron_schema.transformer_fields()
    if field not in fields:
        near = suggestion(field, fields)
        message = f"megatron's TransformerConfig has no field {field!r}.{near}".removesuffix(".")
        values = {"field": field, "nearest": nearest(field, fields)}
        return Problem(message, "megatron.unknown-field", values=values)
    if field in megatron_schema.ENGINE_FIELDS:
        message = f"this field is the engine's: {megatron_schema.ENGINE_FIELDS[field]}"
        return Problem(message, "megatron.engine-field", values={"field": field})
    if field in owned:
        message = _owned(field, graph.modules[owned[field]])
        return Problem(message, "megatron.plugin-field", values={"field": field})
    if field == "cp_comm_type" and "a2a+p2p" in (value if isinstance(value, list) else [value]):
        return Problem(
            "'a2a+p2p' needs groups within the context-parallel group, which core 0.19 makes in "
            "its global parallel state alone; choose p2p, all_gather or a2a",
            "megatron.refused-value",
            values={"field": field, "value": value},
        )
    kind = fields[field]
    if kind is None:
        message = "a recipe cannot write its value (a function or a dtype)"
        return Problem(message, "megatron.refused-value", values={"field": field})
    if kind is Any or field in (_IMPLEMENTATION, _PARTS):  # core takes more: see _cuda_graphs
        return None
    wrong = structure(kind, value)[1]
    return wrong[0] if wrong else None


def _owned(field: str, module: ModuleConfig) -> str:
    """What a recipe says instead of a field that follows from the plugin's options."""
    cls = type(module.options)
    options = [option.name for option in attrs.fields(cls)] if attrs.has(cls) else []
    near = field if field in options else nearest(field, options)
    if near is not None:
        place = f"modules.{module.name}.options.{near}"
        is_it = "follows from" if near == field else "is set by the plugin. Did you mean"
        end = "; set that" if near == field else "?"
        return f"this field {is_it} {place}{end}"
    return (
        f"plugin {module.plugin!r} sets this field itself and has no option of that name; leave it "
        "out"
    )
