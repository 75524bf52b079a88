"""Whether the sizes of a recipe fit each other and what the plugins say of their modules."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from mimo_core.contract import LANGUAGE, Grid, ModuleConfig, ModuleDescription
from mimo_core.errors import Problem
from mimo_core.planning import megatron_validation
from mimo_core.planning.model_graph import Graph
from mimo_core.recipe import LoadedRecipe

NOT_A_MULTIPLE = "recipe.not-a-multiple"
_SIZES = ("tp", "cp", "pp", "dp", "ep", "etp")


def validate(loaded: LoadedRecipe, graph: Graph) -> None:
    """Checks the modules against their descriptions, the batches against the grids, and what is
    set of Megatron.

    Raises:
        RecipeError: Sizes that do not fit, a line for each.
    """
    problems = [*_batches(loaded, graph), *megatron_validation.problems(loaded, graph)]
    if all(module.wholly_frozen for module in graph.modules.values()):
        message = "all parts of all modules are frozen; one at least must learn"
        path = ("modules", LANGUAGE, "freeze")
        problems.append(Problem(message, "recipe.nothing-trainable", path))
    for name, module in graph.modules.items():
        description = graph.descriptions[name]
        problems += _grid(module.grid, description, module)
        problems += _abilities(module, description, graph)
    if problems:
        # What is set for all modules may be wrong for several of them.
        raise loaded.error(
            problem for at, problem in enumerate(problems) if problem not in problems[:at]
        )


def _grid(grid: Grid, description: ModuleDescription, module: ModuleConfig) -> Iterator[Problem]:
    path = ("modules", module.name, "grid")
    refused = set()
    for size in _SIZES:
        number = getattr(grid, size)
        if number > 1 and size not in description.supported_parallelism:
            refused.add(size)
            can = (
                ", ".join(name for name in _SIZES if name in description.supported_parallelism)
                or "none"
            )
            reason = description.unsupported_reasons.get(size)
            yield Problem(
                f"plugin {module.plugin!r} does not support {size} {number}"
                f"{f': {reason}' if reason else ''}; of the grid's sizes it lets these exceed 1: "
                f"{can}",
                "layout.unsupported-size",
                (*path, size),
                {"plugin": module.plugin, "size": size, "number": number},
            )
    if grid.ep > 1 and not description.num_experts:
        message = f"{grid.ep}, but this module has no experts; set ep to 1"
        yield Problem(message, "layout.no-experts", (*path, "ep"), {"ep": grid.ep})
    for what, number, names in _divisions(description):
        sizes = {name: getattr(grid, name) for name in names.split(" x ")}
        product = prod(sizes.values())
        if number % product and not refused & set(sizes):
            told = " x ".join(f"{name} {size}" for name, size in sizes.items()) + " = "
            yield Problem(
                f"{told if len(sizes) > 1 else ''}{product} does not divide {what} {number}; "
                f"choose one of {_divisors(number)}",
                "layout.does-not-divide",
                (*path, list(sizes)[-1]),
                {"sizes": sizes, "what": what, "number": number},
            )


def _abilities(
    module: ModuleConfig, description: ModuleDescription, graph: Graph
) -> Iterator[Problem]:
    path = ("modules", module.name)
    if module.packing and not description.supports_packing:
        yield Problem(
            f"plugin {module.plugin!r} does not declare that it runs packed samples "
            "(describe_module().supports_packing); leave it out",
            "plugin.no-packing",
            (*path, "packing"),
            {"plugin": module.plugin},
        )
    rows, tokenizer = description.vocab_size, graph.tokenizer
    if module.is_language and rows is not None and tokenizer.size > rows:
        ids = {symbol: tokenizer.placeholder_id(symbol) for symbol in tokenizer.placeholders}
        beyond = [f"{symbol!r} (id {number})" for symbol, number in ids.items() if number >= rows]
        what = f"placeholder {', '.join(beyond)}" if beyond else "some token"
        yield Problem(
            f"{what} is outside the vocabulary: the tokenizer has {tokenizer.size} ids, the "
            f"embedding {rows} rows; give the model more rows, or a tokenizer with fewer ids",
            "tokenizer.vocabulary-too-large",
            (*path, "options"),
            {"ids": tokenizer.size, "rows": rows},
        )


def _divisions(description: ModuleDescription) -> Iterator[tuple[str, int, str]]:
    """What each size must divide: the plugin's own words first, then those that always hold."""
    always = (
        ("attention heads", description.num_attention_heads, "tp"),
        ("layers", description.num_layers, "pp"),
        ("experts", description.num_experts, "ep"),
    )
    seen: set[tuple[int, str]] = set()
    for what, number, size in (*description.divisibility, *always):
        if (number, size) not in seen:
            seen.add((number, size))
            yield what, number, size


def _counted(samples: int) -> str:
    return f"the {samples} samples" if samples > 1 else "the one sample"


def _divisors(number: int) -> str:
    return ", ".join(str(d) for d in range(1, min(number, 64) + 1) if number % d == 0)


def _batches(loaded: LoadedRecipe, graph: Graph) -> Iterator[Problem]:
    train, grid = loaded.recipe.train, graph.modules[LANGUAGE].grid
    samples = train.micro_batch_size * grid.dp
    factors = f"micro_batch_size {train.micro_batch_size} x dp {grid.dp} of {LANGUAGE}"
    if train.global_batch_size % samples:
        yield Problem(
            f"{train.global_batch_size} is no multiple of {_counted(samples)} of a microbatch "
            f"({factors})",
            NOT_A_MULTIPLE,
            ("train", "global_batch_size"),
            {"value": train.global_batch_size, "of": samples},
        )
    for name in graph.encoders:
        dp = graph.modules[name].grid.dp
        if samples % dp:
            yield Problem(
                f"{dp} does not divide {_counted(samples)} of a microbatch ({factors}); "
                f"choose one of {_divisors(samples)}, or a larger microbatch",
                "layout.does-not-divide",
                ("modules", name, "grid", "dp"),
                {"sizes": {"dp": dp}, "what": "samples of a microbatch", "number": samples},
            )
    parts = {
        f"2 x cp {grid.cp} (a rank takes two chunks)": 2 * grid.cp if grid.cp > 1 else 1,
        f"cp {grid.cp} x tp {grid.tp} (sequence parallel)": grid.cp * grid.tp if grid.tp > 1 else 1,
    }
    for what, number in parts.items():
        if train.sequence_length % number:
            yield Problem(
                f"{train.sequence_length} is no multiple of {number} = {what} of {LANGUAGE}; "
                f"the next that is: {-(-train.sequence_length // number) * number}",
                NOT_A_MULTIPLE,
                ("train", "sequence_length"),
                {"value": train.sequence_length, "of": number},
            )
