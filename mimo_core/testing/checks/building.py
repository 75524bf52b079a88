"""What a module is built of. On one rank."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.spec_utils import ModuleSpec

from mimo_core.contract import EncoderSpec
from mimo_core.testing.outcome import Finding
from mimo_core.testing.rank_harness import Built, Rig


def builds(rig: Rig) -> Iterator[Finding]:
    """``build_submodule`` gives its parts inside the grid, and their config outside of it."""
    module, described = rig.bench.module()
    try:
        outside = rig.outside()
    except ValueError as error:
        yield Finding(
            said=f"asked with groups=None, as on every rank outside the module's grid: {error}",
            fix="build_submodule must not touch groups where they are None; it gives the same spec "
            "and config there, and nothing is built of it",
        )
        return
    for where, parts in (("outside", outside), ("inside", rig.whole.parts)):
        config = parts.config if isinstance(parts, EncoderSpec) else parts.params.get("config")
        if not isinstance(config, TransformerConfig):
            yield Finding(
                said=f"build_submodule of {module.plugin!r} gives, {where} its grid, a config of "
                f"type {type(config).__name__}",
                fix="give what mimo_core.building.transformer_config(module, …) made: "
                "EncoderSpec(config=…), or params={'config': …} of the language model's ModuleSpec",
            )
            continue
        if not config.calculate_per_token_loss or not config.variable_seq_lengths:
            yield Finding(
                said=f"the config of {module.plugin!r} was not made by the core: it lacks what the "
                "grid, the precision and the training set (calculate_per_token_loss, …)",
                fix="make it with mimo_core.building.transformer_config(module, …)",
            )
        if module.is_language and config.hidden_size != described.hidden_size:
            yield Finding(
                said=f"the config of {module.plugin!r} has hidden_size {config.hidden_size}, "
                f"describe_module() gives {described.hidden_size}",
                fix="give the same in both: towers put out describe_module().hidden_size features",
            )
    for name, spec in _specs(rig.whole.parts):
        if not isinstance(spec, ModuleSpec):
            yield Finding(
                said=f"the {name} of {module.plugin!r} is a {type(spec).__name__}, not a "
                "ModuleSpec",
                fix="give ModuleSpec(module=Class, params={…}): the core builds it, from the seed "
                "of the module",
            )


def parameters(rig: Rig) -> Iterator[Finding]:
    """``describe_module().parameters`` counts the parameters of each part."""
    built = rig.whole
    held = {
        part: sum(parameter.numel() for parameter in model.parameters())
        for part, model in built.by_part().items()
    }
    told: Counter[str] = Counter()
    for weights in built.described.parameters:
        told[weights.component] += weights.num_parameters
    for part, count in held.items():
        if told[part] != count:
            yield Finding(
                said=f"the {part} of {built.module.plugin!r} has {count:,} parameters, but "
                f"describe_module().parameters tells {told[part]:,}",
                fix="correct the counts in describe(): `mimo plan` tells by them whether a run "
                f"fits into memory. By child: {_children(built, part)}",
            )


def seeded(rig: Rig) -> Iterator[Finding]:
    """The run's seed makes the weights: the same ones always, others with another seed."""
    first, again = rig.build(seed=5), rig.build(seed=5)
    other = rig.build(seed=6)
    name = first.module.plugin
    drawn, redrawn = _weights(first), _weights(again)
    changed = [key for key, value in drawn.items() if not _same(value, redrawn[key])]
    if changed:
        yield Finding(
            said=f"{name!r} built twice from one seed has other weights: {_few(changed)}",
            fix="draw from torch's default generator (or megatron's tracker), which the core "
            "seeds; ranks that hold copies would differ",
        )
        return
    if torch.equal(first.random_state, other.random_state):
        yield Finding(
            said=f"{name!r} seeds the random generator itself: after building, its state is the "
            "same whatever the run's seed is",
            fix="leave out torch.manual_seed and the like: the core seeds each module from the "
            "run's seed and rng_prefix()",
        )
    others = other.by_part()
    for part, model in first.by_part().items():
        theirs = dict(others[part].named_parameters())
        own = dict(model.named_parameters())
        random = [key for key, value in own.items() if (value != value.flatten()[0]).any()]
        if not random or not all(_same(own[key], theirs[key]) for key in random):
            continue
        yield Finding(
            said=f"the {part} of {name!r} has the same weights with every seed of the run",
            fix="draw from torch's default generator, not from one with a seed of its own",
        )


def _specs(parts: Any) -> list[tuple[str, Any]]:
    if not isinstance(parts, EncoderSpec):
        return [("language model", parts)]
    return [("tower", parts.tower), *([("projector", parts.projector)] if parts.projector else [])]


def _children(built: Built, part: Any) -> str:
    children = built.by_part()[part].named_children()
    return ", ".join(f"{n} {sum(p.numel() for p in c.parameters()):,}" for n, c in children)


def _weights(built: Built) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in built.parameters().items()}


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
