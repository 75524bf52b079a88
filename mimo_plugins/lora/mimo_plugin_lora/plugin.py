"""The hooks; all but ``options`` wrap those of the module's own plugin."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from mimo_core import Description, Flops, MimoError, Module, Platform, WeightMap, hookimpl
from mimo_plugin_lora.names import place
from mimo_plugin_lora.options import NAME, Options, options_of, parts_of

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection

mimo_contract = "1.0"


@hookimpl
def options() -> type:
    """What the recipe's ``modules.NAME.wrappers.lora`` may say."""
    return Options


@hookimpl(wrapper=True)
def describe(module: Module) -> Generator[None, Description, Description]:
    """The weights of adapted parts do not learn; adapters come on top, and a note says so.

    Raises:
        MimoError: a part is another kind of module's, or frozen by the recipe.
    """
    description = yield
    parts = parts_of(module)
    own = dict.fromkeys(weights.part for weights in description.weights)
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
        attrs.evolve(weights, frozen=weights.frozen or weights.part in parts)
        for weights in description.weights
    )
    return attrs.evolve(description, weights=weights, notes=(*description.notes, _note(module)))


def _note(module: Module) -> str:
    """A description has no layers, so adapters cannot be counted in it."""
    options = options_of(module)
    return (
        f"adapters of rank {options.rank} on {', '.join(options.targets)} come on top of the "
        f"parameters and bytes: {options.rank} x (in + out) parameters for each layer"
    )


@hookimpl(wrapper=True)
def flops(module: Module) -> Generator[None, Sequence[Flops], Sequence[Flops]]:
    """The weights of adapted parts do not learn, but gradients go through them to the adapters.

    The adapters' own products are not counted: about ``rank / width`` of those that they adapt.
    """
    pieces = yield
    return [*_with_adapters(pieces, parts_of(module))]


@hookimpl(wrapper=True)
def build_submodule(
    module: Module, groups: ProcessGroupCollection | None, platform: Platform
) -> Generator[None, Any, Any]:
    """The same parts, of classes that put adapters into what they have built."""
    parts = yield
    if groups is None:
        return parts
    from mimo_plugin_lora.build import adapted

    return adapted(parts, module, groups)


@hookimpl(wrapper=True)
def weight_map(module: Module) -> Generator[None, WeightMap, WeightMap]:
    """The same files: adapters begin fresh, and are merged into the weights that are written."""
    inner = yield
    from mimo_plugin_lora.weights import with_adapters

    return with_adapters(inner, module)


def _with_adapters(pieces: Sequence[Flops], parts: Sequence[str]) -> Iterator[Flops]:
    """The pieces, of adapted parts frozen, and before the first of each what learns instead."""
    begun = set()
    for piece in pieces:
        if piece.part not in parts:
            yield piece
            continue
        if piece.part not in begun:
            begun.add(piece.part)
            yield Flops(part=piece.part)
        yield attrs.evolve(piece, frozen=True)
