"""Whether a checkpoint's tensors fit a model, as far as plugins describe it without torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator

from mimo_core.checkpoint.keys import key_of, module_of, module_prefix
from mimo_core.checkpoint.manifest import Manifest
from mimo_core.contract import ModuleDescription
from mimo_core.errors import MimoError
from mimo_core.planning.model_graph import build_graph
from mimo_core.planning.plan import Plan
from mimo_core.plugins.weight_map import ParamMappings
from mimo_core.recipe import load_text
from mimo_core.weights.pretrained import weight_map

ShapeOf = Callable[[str, tuple[int, ...]], tuple[int, ...] | None]
"""The shape of a tensor of a checkpoint, from its key and its place on the axes that it is stacked
on, without these axes; ``None`` where there is none."""


def misfits(
    module: str, weights: ParamMappings, keys: Collection[str], shape_of: ShapeOf
) -> Iterator[str]:
    """A line for each tensor of a module that the checkpoint lacks, has in another shape, or has
    and the map does not.

    Args:
        module: Its name.
        weights: Its map.
        keys: All keys of tensors of the checkpoint.
        shape_of: Their shapes.
    """
    mapped = set()
    for rule in weights.rules:
        for stored in rule.tensors:
            key = key_of(module, rule, stored)
            mapped.add(key)
            shape = shape_of(key, stored.index)
            at = f"{key} {list(stored.index)}" if stored.index else key
            if shape is None:
                yield f"lacks {at}"
            elif shape != stored.shape:
                yield f"{at} is {list(shape)}, but the recipe's is {list(stored.shape)}"
    for key in sorted(set(keys) - mapped):
        if key.startswith(module_prefix(module)):
            yield f"has {key}, of which the plugin's weight_map tells no name"


def misfits_of_start(plan: Plan, saved: Manifest) -> dict[str, list[str]]:
    """By module, what of a checkpoint does not fit the model that begins with its weights.

    A module whose plugin has a ``weight_map`` is compared by names and shapes; of another one, the
    number of parameters, the width and the layers that the plugin describes. No file is read.

    Args:
        plan: What is run.
        saved: Of the checkpoint.
    """
    tensors = saved.tensors | saved.left_out

    def shape_of(key: str, index: tuple[int, ...]) -> tuple[int, ...] | None:
        whole = tensors[key]["shape"] if key in tensors else []
        if key not in tensors or any(at >= size for at, size in zip(index, whole, strict=False)):
            return None
        return tuple(whole[len(index) :])

    was = set(saved.recipe["modules"])
    owners = {module_of(key) for key in tensors}
    found = {
        name: ["the checkpoint has it, but the recipe does not"]
        for name in sorted(was - plan.graph.modules.keys())
        if name in owners
    }
    described: dict[str, ModuleDescription] | None = None
    for name, module in plan.graph.modules.items():
        if name not in was:
            if plan.graph.descriptions[name].num_parameters:
                found[name] = ["the checkpoint does not have it"]
        elif plan.host.implements("param_mappings", module.plugin):
            try:
                weights = weight_map(plan.host, module)
            except MimoError:
                continue  # Such a module cannot be exported either. Ranks compare its tensors.
            found[name] = [*misfits(name, weights, tensors, shape_of)]
        else:
            described = _descriptions(plan, saved) if described is None else described
            if name in described:
                found[name] = [*_differences(described[name], plan.graph.descriptions[name])]
    return {name: lines for name, lines in found.items() if lines}


def _descriptions(plan: Plan, saved: Manifest) -> dict[str, ModuleDescription]:
    """Of the saved modules; none where the saved recipe cannot be built here any more."""
    try:
        graph = build_graph(load_text(json.dumps(saved.recipe), "the checkpoint"), plan.host)
    except MimoError:
        return {}
    return dict(graph.descriptions)


def _differences(was: ModuleDescription, now: ModuleDescription) -> Iterator[str]:
    for what in ("num_parameters", "hidden_size", "num_layers"):
        before, after = getattr(was, what), getattr(now, what)
        if before != after:
            yield f"{what}: saved with {before}, now {after}"
