"""Whether the sizes of a recipe fit each other and what the plugins say of their modules."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from mimo_core import stock_settings
from mimo_core.contract import LANGUAGE, Description, Grid, Module
from mimo_core.graph import Graph
from mimo_core.recipe import LoadedRecipe

Mistake = tuple[tuple[str | int, ...], str]
_SIZES = ("tp", "cp", "pp", "dp", "ep", "expert_tp")


def validate(loaded: LoadedRecipe, graph: Graph) -> None:
    """Checks the modules against their descriptions, the batches against the grids, and what is
    set of Megatron.

    Raises:
        RecipeError: Sizes that do not fit, a line for each.
    """
    mistakes = [*_batches(loaded, graph), *stock_settings.mistakes(loaded, graph)]
    if all(module.wholly_frozen for module in graph.modules.values()):
        path = ("modules", LANGUAGE, "freeze")
        mistakes.append((path, "all parts of all modules are frozen; one at least must learn"))
    for name, module in graph.modules.items():
        description = graph.descriptions[name]
        path = ("modules", name, "grid")
        for size, said in _grid(module.grid, description, module.plugin):
            mistakes.append(((*path, size), said))
        mistakes += _abilities(module, description, graph)
    if mistakes:
        # What is set for all modules may be wrong for several of them.
        raise loaded.error(dict.fromkeys(mistakes))


def _grid(grid: Grid, description: Description, plugin: str) -> Iterator[tuple[str, str]]:
    refused = set()
    for size in _SIZES:
        number = getattr(grid, size)
        if number > 1 and size not in description.parallel:
            refused.add(size)
            can = ", ".join(name for name in _SIZES if name in description.parallel) or "none"
            reason = description.refused.get(size)
            yield (
                size,
                f"plugin {plugin!r} does not support {size} {number}"
                f"{f': {reason}' if reason else ''}; of the grid's sizes it lets these exceed 1: "
                f"{can}",
            )
    if grid.ep > 1 and not description.experts:
        yield "ep", f"{grid.ep}, but this module has no experts; set ep to 1"
    for what, number, names in _divisions(description):
        sizes = {name: getattr(grid, name) for name in names.split(" x ")}
        product = prod(sizes.values())
        if number % product and not refused & set(sizes):
            told = " x ".join(f"{name} {size}" for name, size in sizes.items()) + " = "
            yield (
                list(sizes)[-1],
                f"{told if len(sizes) > 1 else ''}{product} does not divide {what} {number}; "
                f"choose one of {_divisors(number)}",
            )


def _abilities(module: Module, description: Description, graph: Graph) -> Iterator[Mistake]:
    path = ("modules", module.name)
    if module.packing and not description.packs:
        yield (
            (*path, "packing"),
            f"plugin {module.plugin!r} does not declare that it runs packed samples "
            "(describe().packs); leave it out",
        )
    rows, tokenizer = description.vocabulary, graph.tokenizer
    if module.is_language and rows is not None and tokenizer.size > rows:
        ids = {symbol: tokenizer.placeholder_id(symbol) for symbol in tokenizer.placeholders}
        beyond = [f"{symbol!r} (id {number})" for symbol, number in ids.items() if number >= rows]
        what = f"placeholder {', '.join(beyond)}" if beyond else "some token"
        yield (
            (*path, "options"),
            f"{what} is outside the vocabulary: the tokenizer has {tokenizer.size} ids, the "
            f"embedding {rows} rows; give the model more rows, or a tokenizer with fewer ids",
        )


def _divisions(description: Description) -> Iterator[tuple[str, int, str]]:
    """What each size must divide: the plugin's own words first, then those that always hold."""
    always = (
        ("attention heads", description.heads, "tp"),
        ("layers", description.layers, "pp"),
        ("experts", description.experts, "ep"),
    )
    seen: set[tuple[int, str]] = set()
    for what, number, size in (*description.divides, *always):
        if (number, size) not in seen:
            seen.add((number, size))
            yield what, number, size


def _counted(samples: int) -> str:
    return f"the {samples} samples" if samples > 1 else "the one sample"


def _divisors(number: int) -> str:
    return ", ".join(str(d) for d in range(1, min(number, 64) + 1) if number % d == 0)


def _batches(loaded: LoadedRecipe, graph: Graph) -> Iterator[Mistake]:
    train, grid = loaded.recipe.train, graph.modules[LANGUAGE].grid
    samples = train.micro_batch_size * grid.dp
    factors = f"micro_batch_size {train.micro_batch_size} x dp {grid.dp} of {LANGUAGE}"
    if train.global_batch_size % samples:
        yield (
            ("train", "global_batch_size"),
            f"{train.global_batch_size} is no multiple of {_counted(samples)} of a microbatch "
            f"({factors})",
        )
    for name in graph.encoders:
        dp = graph.modules[name].grid.dp
        if samples % dp:
            yield (
                ("modules", name, "grid", "dp"),
                f"{dp} does not divide {_counted(samples)} of a microbatch ({factors}); "
                f"choose one of {_divisors(samples)}, or a larger microbatch",
            )
    parts = {
        f"2 x cp {grid.cp} (a rank takes two chunks)": 2 * grid.cp if grid.cp > 1 else 1,
        f"cp {grid.cp} x tp {grid.tp} (sequence parallel)": grid.cp * grid.tp if grid.tp > 1 else 1,
    }
    for what, number in parts.items():
        if train.sequence_length % number:
            yield (
                ("train", "sequence_length"),
                f"{train.sequence_length} is no multiple of {number} = {what} of {LANGUAGE}; "
                f"the next that is: {-(-train.sequence_length // number) * number}",
            )
