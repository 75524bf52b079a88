"""The hooks; all but ``options`` wrap those of the module's own plugin."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from mimo_core import (
    FlopsEstimate,
    MimoError,
    ModuleConfig,
    ModuleDescription,
    ParamMappings,
    Platform,
    hookimpl,
)
from mimo_plugin_lora.names import place
from mimo_plugin_lora.options import NAME, Options, options_of, parts_of

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection

mimo_contract = "1.0"


@hookimpl
def options_class() -> type:
    """What the recipe's ``modules.NAME.wrappers.lora`` may say."""
    return Options


@hookimpl(wrapper=True)
def describe_module(module: ModuleConfig) -> Generator[None, ModuleDescription, ModuleDescription]:
    """The weights of adapted parts do not learn; adapters come on top, and a note says so.

    Raises:
        MimoError: a part is another kind of module's, or frozen by the recipe.
    """
    description = yield
    parts = parts_of(module)
    own = dict.fromkeys(weights.component for weights in description.parameters)
    for part in parts:
        if part not in own:
            raise MimoError(
                f"module {module.name!r} has no part {part!r}; its parts: {', '.join(own)}",
                place(module, "parts"),
                code="recipe.unknown-choice",
                module=module.name,
                value=part,
                choices=tuple(own),
            )
        if part in module.freeze:
            raise MimoError(
                f"{part!r} is frozen, and {NAME} is to adapt it: adapters learn while the weights "
                f"that they adapt do not, so leave {part!r} out of freeze",
                ("modules", module.name, "freeze"),
                code="recipe.conflict",
                module=module.name,
                part=part,
            )
    weights = tuple(
        attrs.evolve(weights, frozen=weights.frozen or weights.component in parts)
        for weights in description.parameters
    )
    return attrs.evolve(description, parameters=weights, notes=(*description.notes, _note(module)))


def _note(module: ModuleConfig) -> str:
    """A description has no layers, so adapters cannot be counted in it."""
    options = options_of(module)
    return (
        f"adapters of rank {options.rank} on {', '.join(options.targets)} come on top of the "
        f"parameters and bytes: {options.rank} x (in + out) parameters for each layer"
    )


@hookimpl(wrapper=True)
def estimate_flops(
    module: ModuleConfig,
) -> Generator[None, Sequence[FlopsEstimate], Sequence[FlopsEstimate]]:
    """The weights of adapted parts do not learn, but gradients go through them to the adapters.

    The adapters' own products are not counted: about ``rank / width`` of those that they adapt.
    """
    pieces = yield
    return [*_with_adapters(pieces, parts_of(module))]


@hookimpl(wrapper=True)
def build_submodule(
    module: ModuleConfig, groups: ProcessGroupCollection | None, platform: Platform
) -> Generator[None, Any, Any]:
    """The same parts, of classes that put adapters into what they have built."""
    parts = yield
    if groups is None:
        return parts
    from mimo_plugin_lora.build import adapted

    return adapted(parts, module, groups)


@hookimpl(wrapper=True)
def param_mappings(module: ModuleConfig) -> Generator[None, ParamMappings, ParamMappings]:
    """The same files: adapters begin fresh, and are merged into the weights that are written."""
    inner = yield
    from mimo_plugin_lora.weights import with_adapters

    return with_adapters(inner, module)


def _with_adapters(
    pieces: Sequence[FlopsEstimate], parts: Sequence[str]
) -> Iterator[FlopsEstimate]:
    """The pieces, of adapted parts frozen, and before the first of each what learns instead."""
    begun = set()
    for piece in pieces:
        if piece.component not in parts:
            yield piece
            continue
        if piece.component not in begun:
            begun.add(piece.component)
            yield FlopsEstimate(component=piece.component)
        yield attrs.evolve(piece, frozen=True)
