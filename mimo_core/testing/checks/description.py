"""What a module says of itself, before anything is built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import yaml

from mimo_core.contract import LANGUAGE, Grid, MediaItem, ModuleDescription
from mimo_core.planning.megatron_validation import GRAPHED
from mimo_core.planning.model_graph import build_graph
from mimo_core.plugins.result_validation import DUE_POSITIONS, counts_of, shown
from mimo_core.recipe import load_text
from mimo_core.recipe.megatron_schema import transformer_fields
from mimo_core.testing.fixtures import ENCODER, Bench
from mimo_core.testing.outcome import Finding

_SIZES = {field.name for field in attrs.fields(Grid)} - {"rank_offset"}
_SECOND = "second"


def sound(bench: Bench) -> Iterator[Finding]:
    """Widths, weights, grid sizes and positions that the host can reckon with."""
    module, told = bench.module()
    for name in ("hidden_size", "num_layers", "num_attention_heads"):
        if getattr(told, name) < 1:
            yield _wrong(bench, f"{name} is {getattr(told, name)}", f"give the module's {name}")
    parts = {"language"} if module.is_language else {"encoder", "projector"}
    for weights in told.parameters:
        if weights.component not in parts:
            yield _wrong(
                bench,
                f"parameters of component {weights.component!r} in a module that has "
                f"{', '.join(sorted(parts))}",
                "name the component by which these parameters are frozen",
            )
        if weights.num_parameters < 1:
            yield _wrong(bench, f"{weights} without parameters", "leave them out")
    if not told.parameters:
        yield _wrong(bench, "no weights", "tell every parameter: `mimo plan` counts bytes of them")
    unknown = sorted((told.supported_parallelism | _split_over(told)) - _SIZES)
    if unknown:
        yield _wrong(
            bench,
            f"{', '.join(unknown)} in supported_parallelism or ParameterSpec.sharded_over is no "
            "size of a grid",
            f"use {', '.join(sorted(_SIZES))}",
        )
    foreign = sorted(told.owned_config_fields - transformer_fields().keys())
    if foreign:
        yield _wrong(
            bench,
            f"owns {', '.join(foreign)}, which TransformerConfig does not have",
            "correct the names, or take them out",
        )
    strange = sorted((told.graphable_layers or frozenset()) - {*GRAPHED})
    if strange:
        yield _wrong(
            bench,
            f"captures {', '.join(strange)}, which is no part that CUDA graphs can capture",
            f"use {', '.join(GRAPHED)}",
        )
    if not module.is_language:
        yield from _positions(bench, told)


def planned(bench: Bench) -> Iterator[Finding]:
    """The plugin and its options make a recipe that can be planned; raises where they do not."""
    bench.graph()
    yield from ()


def apart(bench: Bench) -> Iterator[Finding]:
    """Two modules with this plugin in one recipe: placeholders and random numbers of their own."""
    if bench.module_name == LANGUAGE:
        yield from planned(bench)
        return
    recipe = bench.recipe()
    modules = recipe["modules"]
    recipe["modules"] = {ENCODER: modules[ENCODER], _SECOND: modules[ENCODER]} | modules
    text = yaml.dump(recipe, Dumper=_NoAliases, sort_keys=False)
    # Raises where prefixes or placeholders are the same.
    build_graph(load_text(text, "recipe of two modules"), bench.host)
    yield from ()


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def _positions(bench: Bench, told: ModuleDescription) -> Iterator[Finding]:
    assert told.modality is not None and told.count_positions is not None
    media = [_unloadable(medium) for medium in bench.inner.media(told.modality)]
    for few in ([], media[:1], media):
        answer = told.count_positions(few)
        counts = counts_of(answer)
        shapes = [medium.shape for medium in few]
        if counts is None or len(counts) != len(few) or 0 in counts:
            yield _wrong(
                bench,
                f"positions of media of shapes {shapes} are {shown(answer)}",
                f"give a whole number above 0 for each medium: {DUE_POSITIONS}",
            )


def _unloadable(medium: MediaItem) -> MediaItem:
    def load(_generator: Any) -> Any:
        raise ValueError(
            "describe_module().count_positions decodes a medium; it must count from "
            "MediaItem.shape alone: ranks that never decode count too"
        )

    return attrs.evolve(medium, load=load)


def _split_over(told: ModuleDescription) -> frozenset[str]:
    return frozenset().union(*(weights.sharded_over for weights in told.parameters))


def _wrong(bench: Bench, said: str, fix: str) -> Finding:
    return Finding(said=f"describe() of {bench.name!r}: {said}", fix=fix)
