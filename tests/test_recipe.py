"""Recipes: what is read, and the message of every mistake with its place."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from mimo_core import Grid, Train
from mimo_core.errors import RecipeError
from mimo_core.recipe import (
    DataRecipe,
    ModuleRecipe,
    Recipe,
    dump,
    load_recipe,
    load_text,
    structure_options,
)

from .fake_plugins import RECIPE, EyeOptions


def line(number: int, text: str) -> str:
    """The recipe with one line replaced; its indentation is kept."""
    lines = RECIPE.splitlines()
    old = lines[number - 1]
    lines[number - 1] = old[: len(old) - len(old.lstrip())] + text
    return "\n".join(lines)


def said(text: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_text(text, "recipe.yaml", overrides)
    return str(caught.value).splitlines()


def test_a_recipe_is_read_with_its_defaults(tmp_path: Path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    recipe = load_recipe(path).recipe
    assert recipe == load_recipe(str(path)).recipe
    assert list(recipe.modules) == ["vision", "language"]
    assert recipe.modules["vision"] == ModuleRecipe(
        plugin="eye", grid=Grid(tp=2, dp=2), freeze=("encoder",), options={"patch_size": 14}
    )
    assert recipe.train.learning_rate == 1e-3
    assert (recipe.layout, recipe.evaluate.show, recipe.data.workers) == ("disjoint", 6, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            line(4, "grid: {tp: 2, dq: 2}"),
            "recipe.yaml:4: modules.vision.grid.dq: unknown key 'dq'. Did you mean 'dp'? "
            "Known keys: tp, cp, pp, dp, ep, expert_tp, first_rank",
        ),
        (
            line(11, "tp: 2x"),
            "recipe.yaml:11: modules.language.grid.tp: expected an integer, got '2x' (str)",
        ),
        (
            line(11, "tp: '3'"),
            "recipe.yaml:11: modules.language.grid.tp: expected an integer, got '3' (str)",
        ),
        (
            line(11, "tp: true"),
            "recipe.yaml:11: modules.language.grid.tp: expected an integer, got True (bool)",
        ),
        (
            line(11, "tp: 2.0"),
            "recipe.yaml:11: modules.language.grid.tp: expected an integer, got 2.0 (float)",
        ),
        (
            line(11, "tp: 0"),
            "recipe.yaml:11: modules.language.grid.tp: must be at least 1, got 0",
        ),
        (
            line(11, "first_rank: one"),
            "recipe.yaml:11: modules.language.grid.first_rank: expected an integer, "
            "got 'one' (str)",
        ),
        (
            line(4, "grid: 2"),
            "recipe.yaml:4: modules.vision.grid: expected a mapping of keys, got 2 (int)",
        ),
        (
            line(5, "freeze: encoder"),
            "recipe.yaml:5: modules.vision.freeze: expected a list, got 'encoder' (str)",
        ),
        (
            line(5, "freeze: [projector, encodr]"),
            "recipe.yaml:5: modules.vision.freeze[1]: expected one of 'encoder', 'projector', "
            "'language', got 'encodr' (str). Did you mean 'encoder'?",
        ),
        (
            line(5, "freeze: [language]"),
            "recipe.yaml:5: modules.vision.freeze: an encoder has no part 'language'; "
            "its parts: encoder, projector",
        ),
        (
            line(9, "freeze: [encoder]\n    plugin: words"),
            "recipe.yaml:9: modules.language.freeze: the language model has no part 'encoder'; "
            "its parts: language",
        ),
        (
            line(8, "languag:"),
            "recipe.yaml:1: modules: one module must be named 'language', the language model; "
            "given: vision, languag. Rename 'languag'?",
        ),
        (
            line(2, "left-eye:"),
            "recipe.yaml:2: modules.left-eye: 'left-eye' is no name; use letters, digits and _, "
            "a letter first",
        ),
        (
            line(3, "options:"),
            "recipe.yaml:6: modules.vision.options: key 'options' is given "
            "twice, first in line 3; keep one",
        ),
        (line(15, ""), "recipe.yaml:14: data: expected a mapping of keys, got nothing (null)"),
        (line(15, "workers: 1"), "recipe.yaml:14: data.plugin: this key is missing"),
        (
            line(15, "plugin: pairs\n  workers: -1"),
            "recipe.yaml:16: data.workers: must be at least 0, got -1",
        ),
        (line(17, "iterations: 0"), "recipe.yaml:17: train.iterations: must be at least 1, got 0"),
        (
            line(18, "micro_batch_size: 3"),
            "recipe.yaml:19: train.global_batch_size: 8 is no multiple of micro_batch_size 3",
        ),
        (
            line(21, "learning_rate: .nan"),
            "recipe.yaml:21: train.learning_rate: must be a number above 0, got nan",
        ),
        (
            line(21, "learning_rate: '1e-3'"),
            "recipe.yaml:21: train.learning_rate: expected a number, got '1e-3' (str)",
        ),
        (
            line(21, "learning_rate: 0.1\n  minimum_learning_rate: 0.2"),
            "recipe.yaml:22: train.minimum_learning_rate: 0.2 is above learning_rate 0.1",
        ),
        (
            line(21, "learning_rate: 0.1\n  warmup_iterations: 20"),
            "recipe.yaml:22: train.warmup_iterations: 20 leaves nothing of the 20 iterations; "
            "warm up for fewer",
        ),
        (
            line(21, "learning_rate: 0.1\n  precision: fp23"),
            "recipe.yaml:22: train.precision: expected one of 'fp32', 'bf16', got 'fp23' (str). "
            "Did you mean 'fp32'?",
        ),
        (
            RECIPE + "layout: disjont\n",
            "recipe.yaml:22: layout: expected one of 'disjoint', 'colocated', "
            "got 'disjont' (str). Did you mean 'disjoint'?",
        ),
        (
            RECIPE + "evaluate: {samples: 0}\n",
            "recipe.yaml:22: evaluate.samples: must be at least 1, got 0",
        ),
        (
            RECIPE + "checkpoint: {save_every: -1}\n",
            "recipe.yaml:22: checkpoint.save_every: must be at least 0, got -1",
        ),
        (
            RECIPE + "checkpoint: {save: false, save_initial: true}\n",
            "recipe.yaml:22: checkpoint.save_initial: saves the first weights, but save is false; "
            "leave one of both out",
        ),
        (
            RECIPE + "checkpoint: {directory: 3}\n",
            "recipe.yaml:22: checkpoint.directory: expected text, got 3 (int)",
        ),
        (
            RECIPE + "megatron: [a]\n",
            "recipe.yaml:22: megatron: expected a mapping of keys, got ['a'] (list)",
        ),
        (
            RECIPE + "megatron: {<<: {a: 1}}\n",
            "recipe.yaml:22: megatron: a key is a plain word; merge keys (<<) are not read",
        ),
        (
            RECIPE + "megatron: &a {b: *a}\n",
            "recipe.yaml:22: megatron.b: an alias (*) inside its own anchor (&)",
        ),
        ("", "recipe.yaml:1: a recipe is a mapping of keys such as 'modules' and 'data'"),
        ("- a", "recipe.yaml:1: a recipe is a mapping of keys such as 'modules' and 'data'"),
    ],
)
def test_a_mistake_has_its_place_and_the_way_out(text, message):
    assert said(text) == [message]


def test_yaml_that_cannot_be_parsed_has_its_line():
    (message,) = said(line(4, "grid: {tp: 2"))
    assert message.startswith("recipe.yaml:5: not valid YAML: ")
    (message,) = said(line(4, "grid: !python/name:os.system 1"))
    assert message.startswith("recipe.yaml:4: modules.vision.grid: could not determine a constr")


def test_all_mistakes_are_reported_in_the_order_of_the_file():
    text = line(17, "iterations: many").replace("tp: 2, dp: 2", "tp: -1, dp: two")
    text = text.replace("plugin: pairs", "plugn: pairs").replace("language:", "lang:")
    messages = said(text, "evaluate.show=-1", "train.seed=x")
    assert [message.partition(": expected")[0].partition(" must")[0] for message in messages] == [
        "recipe.yaml:1: modules: one module",
        "recipe.yaml:4: modules.vision.grid.dp",
        "recipe.yaml:14: data.plugin: this key is missing",
        "recipe.yaml:15: data.plugn: unknown key 'plugn'. Did you mean 'plugin'? "
        "Known keys: plugin, options, too_long, workers, wrappers",
        "recipe.yaml:17: train.iterations",
        "command line: evaluate.show=-1:",
        "command line: train.seed=x",
    ]


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("modules.vision.grid.dp=1", lambda recipe: recipe.modules["vision"].grid.dp == 1),
        ("evaluate.samples=32", lambda recipe: recipe.evaluate.samples == 32),
        ("train.learning_rate=2e-4", lambda recipe: recipe.train.learning_rate == 2e-4),
        ("train.learning_rate=1", lambda recipe: repr(recipe.train.learning_rate) == "1.0"),
        ("modules.vision.freeze=[]", lambda recipe: recipe.modules["vision"].freeze == ()),
        ("data.options.a.b=[1, x]", lambda recipe: recipe.data.options == {"a": {"b": [1, "x"]}}),
        ("modules.vision.grid={dp: 3}", lambda r: r.modules["vision"].grid == Grid(dp=3)),
        ("megatron.flag=a=b", lambda recipe: recipe.megatron == {"flag": "a=b"}),
    ],
)
def test_an_override_replaces_a_value(override, value):
    assert not value(load_text(RECIPE, "recipe.yaml").recipe)
    assert value(load_text(RECIPE, "recipe.yaml", [override]).recipe)


def test_an_override_can_take_a_value_away():
    text = RECIPE + "evaluate: {samples: 5}\n"
    assert load_text(text, "recipe.yaml", ["evaluate.samples=null"]).recipe.evaluate.samples is None


def test_of_two_overrides_the_later_wins():
    loaded = load_text(RECIPE, "recipe.yaml", ["train.seed=1", "train.seed=2"])
    assert loaded.recipe.train.seed == 2
    assert loaded.message(("train", "seed"), "no") == "command line: train.seed=2: no"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "modules.vision.grid.dq=2",
            "command line: modules.vision.grid.dq=2: unknown key 'dq'. Did you mean 'dp'? "
            "Known keys: tp, cp, pp, dp, ep, expert_tp, first_rank",
        ),
        (
            "modules.vision.grid={dp: x}",
            "command line: modules.vision.grid={dp: x}: modules.vision.grid.dp: "
            "expected an integer, got 'x' (str)",
        ),
        (
            "modules.visoin.grid.dp=2",
            "command line: modules.visoin.grid.dp=2: modules.visoin: there is no module 'visoin'. "
            "Did you mean 'vision'? Modules: vision, language; for a new one set "
            "modules.visoin.plugin too",
        ),
        (
            "data.plugin.name=2",
            "command line: data.plugin.name=2: data.plugin is 'pairs', which has no key 'name'",
        ),
        (
            "train.seed",
            "command line: train.seed: expected key.path=value, such as train.iterations=20",
        ),
        (
            "train..seed=1",
            "command line: train..seed=1: expected key.path=value, such as train.iterations=20",
        ),
        (
            "data.options={a: 1, a: 2}",
            "command line: data.options={a: 1, a: 2}: data.options.a: key 'a' is given twice, "
            "first in line 1; keep one",
        ),
    ],
)
def test_a_wrong_override_is_its_own_place(override, message):
    assert said(RECIPE, override) == [message]


def test_an_override_that_is_no_yaml_is_refused():
    (message,) = said(RECIPE, "train.seed=[1")
    assert message.startswith("command line: train.seed=[1: the value is no YAML: ")


def test_a_missing_file_names_its_folder_and_the_nearest_recipe(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    path = tmp_path / "recpie.yaml"
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(caught.value) == (
        f"{path}: there is no such recipe in {tmp_path}. Did you mean 'recipe.yaml'?"
    )
    with pytest.raises(RecipeError, match="cannot read the recipe: Is a directory"):
        load_recipe(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "{patch_sise: 2}",
            "recipe.yaml:6: modules.vision.options.patch_sise: unknown key 'patch_sise'. "
            "Did you mean 'patch_size'? Known keys: patch_size, scale, size, widths, threads",
        ),
        (
            "{scale: big}",
            "recipe.yaml:6: modules.vision.options.scale: expected a number, got 'big' (str)",
        ),
        ("{patch_size: 0}", "recipe.yaml:6: modules.vision.options.patch_size: must be >= 1: 0"),
        (
            "{widths: [1, 2.5]}",
            "recipe.yaml:6: modules.vision.options.widths[1]: expected an integer, got 2.5 (float)",
        ),
        (
            "{size: giant}",
            "recipe.yaml:6: modules.vision.options.size: expected one of 'base', "
            "'huge', got 'giant' (str)",
        ),
    ],
)
def test_options_of_a_plugin_are_as_strict(options, message):
    text = RECIPE.replace("options:\n      patch_size: 14", f"options: {options}")
    loaded = load_text(text, "recipe.yaml")
    values = loaded.recipe.modules["vision"].options
    with pytest.raises(RecipeError) as caught:
        structure_options(loaded, ("modules", "vision", "options"), EyeOptions, values)
    assert str(caught.value) == message


def test_options_take_unions_nesting_and_integers_as_floats():
    @attrs.frozen(kw_only=True)
    class Inner:
        name: str

    @attrs.frozen(kw_only=True)
    class Options:
        inner: Inner
        many: dict[str, Inner]
        size: int | str
        scale: float

    Options.__annotations__.update(inner=Inner, many=dict[str, Inner], size=int | str, scale=float)
    attrs.resolve_types(Options, globals(), {"Inner": Inner})
    attrs.resolve_types(Inner)
    loaded = load_text(RECIPE, "recipe.yaml")
    values = {"inner": {"name": "a"}, "many": {"x": {"name": "b"}}, "size": "big", "scale": 2}
    assert structure_options(loaded, ("data",), Options, values) == Options(
        inner=Inner(name="a"), many={"x": Inner(name="b")}, size="big", scale=2.0
    )
    values |= {"many": {"x": {"nam": "b"}}, "size": 2.5}
    with pytest.raises(RecipeError) as caught:
        structure_options(loaded, ("data", "options"), Options, values)
    assert str(caught.value).splitlines() == [
        "recipe.yaml:14: data.options.many.x.name: this key is missing",
        "recipe.yaml:14: data.options.many.x.nam: unknown key 'nam'. Did you mean 'name'? "
        "Known keys: name",
        "recipe.yaml:14: data.options.size: expected an integer or text, got 2.5 (float)",
    ]


def test_a_dumped_recipe_loads_equal():
    overrides = [
        'data.options={a: "1e-3", b: 1e-3, c: [null, true, "yes", "12"], d: "größe\\n"}',
        "checkpoint.directory=/tmp/x",
    ]
    recipe = load_text(RECIPE, "recipe.yaml", overrides).recipe
    text = dump(recipe)
    assert load_text(text, "again").recipe == recipe
    assert recipe.data.options["a"] == "1e-3"
    assert recipe.data.options["b"] == 1e-3
    assert text.index("modules:") < text.index("vision:") < text.index("language:")
    assert "log_every: 10" in text


def test_a_recipe_made_in_python_keeps_the_same_rules():
    train = Train(
        iterations=0,
        micro_batch_size=1,
        global_batch_size=1,
        sequence_length=8,
        learning_rate=1.0,
    )
    with pytest.raises(RecipeError) as caught:
        Recipe(
            modules={"vision": ModuleRecipe(plugin="eye", grid=Grid(tp=0))},
            data=DataRecipe(plugin="pairs"),
            train=train,
        )
    assert str(caught.value).splitlines() == [
        "modules: one module must be named 'language', the language model; given: vision",
        "modules.vision.grid.tp: must be at least 1, got 0",
        "train.iterations: must be at least 1, got 0",
    ]
