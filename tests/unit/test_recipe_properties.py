"""What holds of any grids, and of any recipe."""

from __future__ import annotations

import re
from itertools import chain
from typing import Any

import attrs
import pytest
import yaml
from hypothesis import assume, event, given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from mimo_core import (
    LANGUAGE,
    Grid,
    ModuleConfig,
    ModuleDescription,
    ParameterSpec,
    TrainingConfig,
    hookimpl,
)
from mimo_core.distributed.routing import bridge_ranks
from mimo_core.errors import LayoutError, RecipeError
from mimo_core.planning.plan import make_plan
from mimo_core.planning.rank_layout import Layout, plan_layout, sample_slice
from mimo_core.recipe import dump, load_text, schema, yaml_source

from ..helpers.fake_plugins import RECIPE, eye, host, words
from ..helpers.hypothesis_settings import examples
from .test_routing import Edge, check

NAMES = ("vision", LANGUAGE, "sound", "touch")
SIZES = st.sampled_from([1, 1, 1, 2, 3, 4])


@st.composite
def grids(draw: st.DrawFn) -> dict[str, Grid]:
    """Up to four modules, in any order of ranks, at times one of them not where it fits."""
    names = draw(st.permutations(NAMES))[: draw(st.integers(1, len(NAMES)))]
    drawn = {name: _grid(draw) for name in names}
    in_order = draw(st.booleans())
    shifted = draw(st.sampled_from([None, None, *names]))
    following = 0
    for name in names if in_order else draw(st.permutations(names)):
        place = max(0, following + (draw(st.sampled_from([-1, 1])) if name == shifted else 0))
        if not (in_order and name != shifted and draw(st.booleans())):
            drawn[name] = attrs.evolve(drawn[name], rank_offset=place)
        following += drawn[name].size
    return drawn


def _grid(draw: st.DrawFn) -> Grid:
    dense = {size: draw(SIZES) for size in ("tp", "cp", "pp", "dp")}
    ep, etp = draw(st.sampled_from([(1, 1)] * 12 + [(2, 1), (1, 2), (2, 2), (4, 1), (3, 1)]))
    return Grid(**dense, ep=ep, etp=etp)


def ranks_of(grids: dict[str, Grid]) -> list[list[int]]:
    """Ranks of each module: where ``rank_offset`` says, else behind the module before."""
    found, following = [], 0
    for grid in grids.values():
        first = following if grid.rank_offset is None else grid.rank_offset
        following = first + grid.size
        found.append(list(range(first, following)))
    return found


def experts_fit(grid: Grid) -> bool:
    return grid.tp * grid.cp * grid.dp % (grid.ep * grid.etp) == 0


@examples(300)
@given(grids=grids(), started=st.none() | st.integers(1, 40))
def test_grids_tile_the_world_or_are_refused_with_the_way_out(
    grids: dict[str, Grid], started: int | None
) -> None:
    ranks = sorted(chain.from_iterable(ranks_of(grids)))
    tiled = ranks == list(range(len(ranks)))
    fits = tiled and all(map(experts_fit, grids.values())) and started in (None, len(ranks))
    event(f"fits: {fits}, tiled: {tiled}")
    if fits:
        check_tiling(plan_layout(grids, "non_colocated", started))
        return
    with pytest.raises(LayoutError) as caught:
        plan_layout(grids, "non_colocated", started)
    said = str(caught.value)
    if misfit := next((name for name, grid in grids.items() if not experts_fit(grid)), None):
        assert caught.value.path[:2] == ("modules", misfit) and "cannot be divided" in said
    elif tiled:
        assert f"needs {len(ranks)} ranks, but {started} were started" in said
    else:
        follow_advice(grids, said)


def follow_advice(grids: dict[str, Grid], said: str) -> None:
    """Setting the first rank that the message names, a module a time, ends with a tiled world."""
    for _ in grids:
        name, rank = re.findall(r"set modules\.(\w+)\.grid\.rank_offset=(\d+)", said)[0]
        grids = {**grids, name: attrs.evolve(grids[name], rank_offset=int(rank))}
        try:
            check_tiling(plan_layout(grids))
        except LayoutError as error:
            said = str(error)
        else:
            return
    raise AssertionError(said)


def check_tiling(layout: Layout) -> None:
    """Every rank belongs to one module, at a place of its own."""
    world = range(layout.world_size)
    assert sorted(chain.from_iterable(map(layout.ranks, layout.grids))) == list(world)
    places = set()
    for rank in world:
        (module,) = layout.modules_on_rank(rank)
        assert layout.module_of(rank) == module and rank in layout.ranks(module)
        at = layout.coordinates(rank, module)
        assert layout.rank_at(module, **at) == rank
        places.add((module, *at.items()))
    assert len(places) == len(world)
    # Also without their number: every coordinate that tells two ranks apart is named.
    labels = {layout.rank_label(rank).partition(" (")[2] for rank in world}
    assert len(labels) == len(world)


SMALL = st.builds(
    Grid, dp=st.sampled_from([1] * 9 + [2]), rank_offset=st.sampled_from([None, None, 0, 0, 1])
)


@examples(100)
@given(
    grids=st.dictionaries(st.sampled_from(NAMES), SMALL, min_size=1),
    started=st.sampled_from([None, None, 1, 2]),
)
def test_colocated_is_one_rank_or_refused(grids: dict[str, Grid], started: int | None) -> None:
    alone = all(grid.size == 1 and not grid.rank_offset for grid in grids.values())
    if not (alone and started in (None, 1)):
        with pytest.raises(LayoutError, match="colocated"):
            plan_layout(grids, "colocated", started)
        return
    layout = plan_layout(grids, "colocated", started)
    assert (layout.world_size, layout.modules_on_rank(0)) == (1, tuple(grids))
    assert all(layout.rank_at(name) == 0 for name in grids)


@hookimpl
def describe_module(module: ModuleConfig) -> ModuleDescription:
    """Of any module: all of its grid's sizes may exceed 1."""
    return ModuleDescription(
        hidden_size=24,
        num_layers=12,
        num_attention_heads=12,
        num_experts=12,
        parameters=(ParameterSpec(num_parameters=1),),
        modality="image",
        count_positions=lambda media: [4] * len(media),
        supported_parallelism=frozenset({"tp", "cp", "pp", "dp", "ep", "etp"}),
    )


HOST = host(eye=eye(describe_module=describe_module), words=words(describe_module=describe_module))


@examples(80)
@given(grids=grids().filter(lambda grids: len(grids) > 1), samples=st.integers(1, 6))
def test_every_sample_reaches_every_rank_that_needs_it_once(
    grids: dict[str, Grid], samples: int
) -> None:
    """For whatever sizes the plan accepts."""
    # Encoders keep all positions of a sample on a rank.
    grids = {
        name: attrs.evolve(grid, rank_offset=None, cp=grid.cp if name == LANGUAGE else 1)
        for name, grid in ({LANGUAGE: Grid()} | grids).items()
    }
    train = {"micro_batch_size": samples, "global_batch_size": samples * 12}
    train |= {"sequence_length": 1440, "iterations": 1, "learning_rate": 1e-3}
    modules = {
        name: {"plugin": "words" if name == LANGUAGE else "eye", "grid": attrs.asdict(grid)}
        for name, grid in grids.items()
    }
    recipe = yaml.safe_dump(
        {"modules": modules, "data": {"plugin": "pairs"}, "train": train}, sort_keys=False
    )
    try:
        plan = make_plan(load_text(recipe, "recipe.yaml").recipe, host=HOST)
    except (LayoutError, RecipeError) as error:
        event("refused")
        assert re.search(r"does not divide the|is no multiple of|cannot be divided", str(error))
        return
    layout = plan.layout
    for grid in grids.values():
        slices = [range(*sample_slice(plan.microbatch, grid.dp, rank)) for rank in range(grid.dp)]
        assert list(chain.from_iterable(slices)) == list(range(plan.microbatch))
    talking = [check(Edge(layout, plan.microbatch, encoder)) for encoder in plan.graph.encoders]
    assert sorted(bridge_ranks(layout)) == sorted(set().union(*talking))


# Recipes
WORDS = st.text(max_size=12) | st.sampled_from(
    ["1e-3", "010", "yes", "~", "2020-01-01", " a", "a: b"]
)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | WORDS
    | st.dates()
    | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
OPTIONS = st.dictionaries(WORDS, PLAIN, max_size=3)
NAMED = WORDS.filter(str.strip)
"""What names a plugin or a place: the recipe refuses an empty text."""


def some(**fields: SearchStrategy[Any]) -> SearchStrategy[dict[str, Any]]:
    """Any of the keys."""
    return st.fixed_dictionaries({}, optional=fields)


def module(*parts: str) -> SearchStrategy[dict[str, Any]]:
    fields = some(
        grid=some(
            **dict.fromkeys(("tp", "cp", "pp", "dp", "ep", "rank_offset"), st.integers(1, 9))
        ),
        freeze=st.lists(st.sampled_from(parts), max_size=2),
        options=OPTIONS,
        precision=st.sampled_from([None, "fp32", "bf16"]),
        packing=st.booleans(),
        lr_mult=st.floats(0.1, 10),
        wd_mult=st.integers(0, 3),
        megatron=OPTIONS,
    )
    return st.builds(lambda plugin, given: {"plugin": plugin, **given}, NAMED, fields)


@st.composite
def recipes(draw: st.DrawFn) -> dict[str, Any]:
    """Values of a recipe, in any order of the modules."""
    names = draw(st.permutations(NAMES))
    micro = draw(st.integers(1, 8))
    train = {
        "iterations": draw(st.integers(11, 10**6)),
        "micro_batch_size": micro,
        "global_batch_size": micro * draw(st.integers(1, 8)),
        "sequence_length": draw(st.integers(1, 10**6)),
        "learning_rate": draw(st.floats(1e-30, 1)),
    }
    more = some(
        lr_warmup_iterations=st.integers(0, 10),
        lr_decay_style=st.sampled_from(["constant", "linear", "cosine"]),
        weight_decay=st.floats(0, 1),
        precision=st.sampled_from(["fp32", "bf16"]),
        seed=st.integers(0, 2**32 - 1),
    )
    count = st.integers(0, 10**6)
    rest = some(
        tokenizer=some(path=st.none() | NAMED),
        validation=some(
            interval=count, num_samples=st.none() | st.integers(1), num_displayed=count
        ),
        checkpoint=some(
            enabled=st.booleans(), save_interval=count, directory=NAMED, init_from=NAMED
        ),
        placement=st.sampled_from(["non_colocated", "colocated"]),
        megatron=OPTIONS,
    )
    data = some(
        options=OPTIONS,
        overlength=st.sampled_from(["error", "truncate"]),
        num_workers=st.integers(0, 1024),
    )
    return {
        "modules": {
            name: draw(module(LANGUAGE) if name == LANGUAGE else module("encoder", "projector"))
            for name in names[names.index(LANGUAGE) :]
        },
        "data": {"plugin": draw(NAMED), **draw(data)},
        "train": {**train, **draw(more)},
        **draw(rest),
    }


@examples(100)
@given(values=recipes())
def test_a_recipe_that_loads_is_written_as_one_that_loads_equal(values: dict[str, Any]) -> None:
    try:
        recipe = load_text(yaml.dump(values, Dumper=yaml_source.Dumper), "recipe.yaml").recipe
    except RecipeError as error:
        # Of what is drawn here, only keys of options can be wrong.
        assert "a key is a plain word" in str(error)
        return
    again = load_text(dump(recipe), "recipe.yaml").recipe
    assert again == recipe
    assert list(again.modules) == list(recipe.modules)
    assert dump(again) == dump(recipe)


SECTIONS: dict[tuple[str, ...], type] = {
    (): schema.Recipe,
    ("modules", "vision"): schema.ModuleRecipe,
    ("modules", "vision", "grid"): Grid,
    ("data",): schema.DataRecipe,
    ("train",): TrainingConfig,
    ("tokenizer",): schema.TokenizerRecipe,
    ("validation",): schema.ValidationRecipe,
    ("checkpoint",): schema.CheckpointRecipe,
}
LETTERS = "abcdefghijklmnopqrstuvwxyz_"


@st.composite
def misspelt(draw: st.DrawFn) -> tuple[tuple[str, ...], str, str]:
    """A section's path, one of its keys, and that key with one slip of the fingers."""
    path = draw(st.sampled_from(sorted(SECTIONS)))
    known = [field.name for field in attrs.fields(SECTIONS[path])]
    key = draw(st.sampled_from(known))
    word = draw(st.sampled_from(sorted(slips(key))))
    assume(word not in known)
    return path, key, word


def slips(word: str) -> set[str]:
    """Words that are one letter more, less or other, or two letters exchanged, away."""
    cuts = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    less = {a + b[1:] for a, b in cuts if b}
    exchanged = {a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1}
    other = {a + letter + b[1:] for a, b in cuts if b for letter in LETTERS}
    more = {a + letter + b for a, b in cuts for letter in LETTERS}
    return (less | exchanged | other | more) - {word, ""}


@examples(200)
@given(slip=misspelt(), overridden=st.booleans())
def test_a_misspelt_key_names_the_nearest(
    slip: tuple[tuple[str, ...], str, str], overridden: bool
) -> None:
    path, key, word = slip
    values = yaml.safe_load(RECIPE)
    section = values
    for part in path:
        section = section.setdefault(part, {})
    words = f"{'.'.join((*path, word))}=1"
    if not overridden:
        section[word] = section.pop(key, 1)
    with pytest.raises(RecipeError) as caught:
        load_text(yaml.safe_dump(values), "recipe.yaml", [words] if overridden else [])
    (line,) = (line for line in str(caught.value).splitlines() if "unknown key" in line)
    said = re.search(r"Did you mean '(\w+)'\?", line)
    known = {field.name for field in attrs.fields(SECTIONS[path])}
    # A slip may lie between two keys: dq between dp and tp is not, xp is.
    assert said is not None and said[1] in slips(word) & known, line
    assert line.startswith("command line: " if overridden else "recipe.yaml:")
