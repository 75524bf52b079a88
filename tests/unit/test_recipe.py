"""Recipes: what is read, and the message of every mistake with its place."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from mimo_core import Grid, TrainingConfig
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

from ..helpers.fake_plugins import RECIPE, EyeOptions
from ..helpers.problems import facts


def line(number: int, text: str) -> str:
    """The recipe with one line replaced; its indentation is kept."""
    lines = RECIPE.splitlines()
    old = lines[number - 1]
    lines[number - 1] = old[: len(old) - len(old.lstrip())] + text
    return "\n".join(lines)


def refused(text: str, *overrides: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        load_text(text, "recipe.yaml", overrides)
    return caught.value


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
    assert (recipe.placement, recipe.validation.num_displayed, recipe.data.num_workers) == (
        "non_colocated",
        6,
        0,
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            line(4, "grid: {tp: 2, dq: 2}"),
            (
                "recipe.unknown-key",
                "recipe.yaml:4: modules.vision.grid.dq",
                {"key": "dq", "nearest": "dp"},
            ),
        ),
        (
            line(11, "tp: 2x"),
            (
                "recipe.wrong-type",
                "recipe.yaml:11: modules.language.grid.tp",
                {"value": "2x", "expected": "an integer"},
            ),
        ),
        (
            line(11, "tp: '3'"),
            (
                "recipe.wrong-type",
                "recipe.yaml:11: modules.language.grid.tp",
                {"value": "3", "expected": "an integer"},
            ),
        ),
        (
            line(11, "tp: true"),
            (
                "recipe.wrong-type",
                "recipe.yaml:11: modules.language.grid.tp",
                {"value": True, "expected": "an integer"},
            ),
        ),
        (
            line(11, "tp: 2.0"),
            (
                "recipe.wrong-type",
                "recipe.yaml:11: modules.language.grid.tp",
                {"value": 2.0, "expected": "an integer"},
            ),
        ),
        (
            line(11, "tp: 0"),
            (
                "recipe.out-of-range",
                "recipe.yaml:11: modules.language.grid.tp",
                {"value": 0, "least": 1},
            ),
        ),
        (
            line(11, "rank_offset: one"),
            (
                "recipe.wrong-type",
                "recipe.yaml:11: modules.language.grid.rank_offset",
                {"value": "one", "expected": "an integer"},
            ),
        ),
        (
            line(4, "grid: 2"),
            (
                "recipe.wrong-type",
                "recipe.yaml:4: modules.vision.grid",
                {"value": 2, "expected": "a mapping of keys"},
            ),
        ),
        (
            line(5, "freeze: encoder"),
            (
                "recipe.wrong-type",
                "recipe.yaml:5: modules.vision.freeze",
                {"value": "encoder", "expected": "a list"},
            ),
        ),
        (
            line(5, "freeze: [projector, encodr]"),
            (
                "recipe.unknown-choice",
                "recipe.yaml:5: modules.vision.freeze[1]",
                {"value": "encodr"},
            ),
        ),
        (
            line(5, "freeze: [language]"),
            (
                "recipe.unknown-choice",
                "recipe.yaml:5: modules.vision.freeze",
                {"value": "language"},
            ),
        ),
        (
            line(9, "freeze: [encoder]\n    plugin: words"),
            (
                "recipe.unknown-choice",
                "recipe.yaml:9: modules.language.freeze",
                {"value": "encoder"},
            ),
        ),
        (
            line(8, "languag:"),
            (
                "recipe.no-language-model",
                "recipe.yaml:1: modules",
                {"given": ("vision", "languag")},
            ),
        ),
        (
            line(2, "left-eye:"),
            ("recipe.module-name", "recipe.yaml:2: modules.left-eye", {"name": "left-eye"}),
        ),
        (
            line(3, "options:"),
            (
                "recipe.duplicate-key",
                "recipe.yaml:6: modules.vision.options",
                {"key": "options", "lines": (3, 6)},
            ),
        ),
        (
            line(15, ""),
            (
                "recipe.wrong-type",
                "recipe.yaml:14: data",
                {"value": None, "expected": "a mapping of keys"},
            ),
        ),
        (line(15, "num_workers: 1"), ("recipe.missing-key", "recipe.yaml:14: data.plugin", {})),
        (
            line(15, "plugin: pairs\n  num_workers: -1"),
            ("recipe.out-of-range", "recipe.yaml:16: data.num_workers", {"value": -1, "least": 0}),
        ),
        (
            line(17, "iterations: 0"),
            ("recipe.out-of-range", "recipe.yaml:17: train.iterations", {"value": 0, "least": 1}),
        ),
        (
            line(18, "micro_batch_size: 3"),
            ("recipe.not-a-multiple", "recipe.yaml:19: train.global_batch_size", {}),
        ),
        (
            line(21, "learning_rate: .inf"),
            ("recipe.out-of-range", "recipe.yaml:21: train.learning_rate", {"value": float("inf")}),
        ),
        (
            line(21, "learning_rate: '1e-3'"),
            (
                "recipe.wrong-type",
                "recipe.yaml:21: train.learning_rate",
                {"value": "1e-3", "expected": "a number"},
            ),
        ),
        (
            line(21, "learning_rate: 0.1\n  min_learning_rate: 0.2"),
            ("recipe.conflict", "recipe.yaml:22: train.min_learning_rate", {}),
        ),
        (
            line(21, "learning_rate: 0.1\n  lr_warmup_iterations: 20"),
            ("recipe.conflict", "recipe.yaml:22: train.lr_warmup_iterations", {}),
        ),
        (
            line(21, "learning_rate: 0.1\n  precision: fp23"),
            ("recipe.unknown-choice", "recipe.yaml:22: train.precision", {"value": "fp23"}),
        ),
        (
            RECIPE + "placement: colocatd\n",
            ("recipe.unknown-choice", "recipe.yaml:22: placement", {"value": "colocatd"}),
        ),
        (
            RECIPE + "validation: {num_samples: 0}\n",
            (
                "recipe.out-of-range",
                "recipe.yaml:22: validation.num_samples",
                {"value": 0, "least": 1},
            ),
        ),
        (
            RECIPE + "checkpoint: {save_interval: -1}\n",
            (
                "recipe.out-of-range",
                "recipe.yaml:22: checkpoint.save_interval",
                {"value": -1, "least": 0},
            ),
        ),
        (
            RECIPE + "checkpoint: {enabled: false, save_at_start: true}\n",
            ("recipe.conflict", "recipe.yaml:22: checkpoint.save_at_start", {}),
        ),
        (
            RECIPE + "checkpoint: {directory: 3}\n",
            (
                "recipe.wrong-type",
                "recipe.yaml:22: checkpoint.directory",
                {"value": 3, "expected": "text"},
            ),
        ),
        (
            RECIPE + "megatron: [a]\n",
            (
                "recipe.wrong-type",
                "recipe.yaml:22: megatron",
                {"value": ["a"], "expected": "a mapping of keys"},
            ),
        ),
        (
            RECIPE + "megatron: {<<: {a: 1}}\n",
            ("recipe.invalid-yaml", "recipe.yaml:22: megatron", {}),
        ),
        (
            RECIPE + "megatron: &a {b: *a}\n",
            ("recipe.invalid-yaml", "recipe.yaml:22: megatron.b", {}),
        ),
        ("", ("recipe.no-mapping", "recipe.yaml:1", {})),
        ("- a", ("recipe.no-mapping", "recipe.yaml:1", {})),
    ],
)
def test_a_mistake_has_its_code_its_place_and_its_values(text, problem):
    assert facts(refused(text)) == [problem]


def test_yaml_that_cannot_be_parsed_has_its_line():
    for text, place in (
        ("grid: {tp: 2", "recipe.yaml:5"),
        ("grid: !python/name:os.system 1", "recipe.yaml:4: modules.vision.grid"),
    ):
        assert facts(refused(line(4, text))) == [("recipe.invalid-yaml", place, {})]


def test_all_mistakes_are_reported_in_the_order_of_the_file():
    text = line(17, "iterations: many").replace("tp: 2, dp: 2", "tp: -1, dp: two")
    text = text.replace("plugin: pairs", "plugn: pairs").replace("language:", "lang:")
    problems = facts(refused(text, "validation.num_displayed=-1", "train.seed=x"))
    assert [(code, place) for code, place, _ in problems] == [
        ("recipe.no-language-model", "recipe.yaml:1: modules"),
        ("recipe.wrong-type", "recipe.yaml:4: modules.vision.grid.dp"),
        ("recipe.missing-key", "recipe.yaml:14: data.plugin"),
        ("recipe.unknown-key", "recipe.yaml:15: data.plugn"),
        ("recipe.wrong-type", "recipe.yaml:17: train.iterations"),
        ("recipe.out-of-range", "command line: validation.num_displayed=-1"),
        ("recipe.wrong-type", "command line: train.seed=x"),
    ]


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("modules.vision.grid.dp=1", lambda recipe: recipe.modules["vision"].grid.dp == 1),
        ("validation.num_samples=32", lambda recipe: recipe.validation.num_samples == 32),
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
    text = RECIPE + "validation: {num_samples: 5}\n"
    assert (
        load_text(
            text, "recipe.yaml", ["validation.num_samples=null"]
        ).recipe.validation.num_samples
        is None
    )


def test_of_two_overrides_the_later_wins():
    loaded = load_text(RECIPE, "recipe.yaml", ["train.seed=1", "train.seed=2"])
    assert loaded.recipe.train.seed == 2
    assert loaded.places.place(("train", "seed")) == "command line: train.seed=2"


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        (
            "modules.vision.grid.dq=2",
            (
                "recipe.unknown-key",
                "command line: modules.vision.grid.dq=2",
                {"key": "dq", "nearest": "dp"},
            ),
        ),
        (
            "modules.vision.grid={dp: x}",
            (
                "recipe.wrong-type",
                "command line: modules.vision.grid={dp: x}: modules.vision.grid.dp",
                {"value": "x", "expected": "an integer"},
            ),
        ),
        (
            "modules.visoin.grid.dp=2",
            (
                "recipe.unknown-module",
                "command line: modules.visoin.grid.dp=2: modules.visoin",
                {"name": "visoin", "modules": ("vision", "language")},
            ),
        ),
        (
            "data.plugin.name=2",
            ("recipe.no-mapping", "command line: data.plugin.name=2", {}),
        ),
        (
            "train.seed",
            ("recipe.invalid-override", "command line: train.seed", {}),
        ),
        (
            "train..seed=1",
            ("recipe.invalid-override", "command line: train..seed=1", {}),
        ),
        (
            "data.options={a: 1, a: 2}",
            (
                "recipe.duplicate-key",
                "command line: data.options={a: 1, a: 2}: data.options.a",
                {"key": "a", "lines": (1, 1)},
            ),
        ),
    ],
)
def test_a_wrong_override_is_its_own_place(override, problem):
    assert facts(refused(RECIPE, override)) == [problem]


def test_an_override_that_is_no_yaml_is_refused():
    place = "command line: train.seed=[1"
    assert facts(refused(RECIPE, "train.seed=[1")) == [("recipe.invalid-yaml", place, {})]


def test_a_missing_file_names_its_folder_and_the_nearest_recipe(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    path = tmp_path / "recpie.yaml"
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert facts(caught.value) == [("recipe.not-found", "", {"file": str(path)})]
    assert "Did you mean 'recipe.yaml'?" in str(caught.value)
    with pytest.raises(RecipeError, match="Is a directory") as caught:
        load_recipe(tmp_path)
    assert caught.value.code == "recipe.unreadable"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            "{patch_sise: 2}",
            (
                "recipe.unknown-key",
                "recipe.yaml:6: modules.vision.options.patch_sise",
                {"key": "patch_sise", "nearest": "patch_size"},
            ),
        ),
        (
            "{scale: big}",
            (
                "recipe.wrong-type",
                "recipe.yaml:6: modules.vision.options.scale",
                {"value": "big", "expected": "a number"},
            ),
        ),
        (
            "{patch_size: 0}",
            ("recipe.invalid-value", "recipe.yaml:6: modules.vision.options.patch_size", {}),
        ),
        (
            "{widths: [1, 2.5]}",
            (
                "recipe.wrong-type",
                "recipe.yaml:6: modules.vision.options.widths[1]",
                {"value": 2.5, "expected": "an integer"},
            ),
        ),
        (
            "{size: giant}",
            (
                "recipe.unknown-choice",
                "recipe.yaml:6: modules.vision.options.size",
                {"value": "giant"},
            ),
        ),
    ],
)
def test_options_of_a_plugin_are_as_strict(options, problem):
    text = RECIPE.replace("options:\n      patch_size: 14", f"options: {options}")
    loaded = load_text(text, "recipe.yaml")
    values = loaded.recipe.modules["vision"].options
    with pytest.raises(RecipeError) as caught:
        structure_options(loaded, ("modules", "vision", "options"), EyeOptions, values)
    assert facts(caught.value) == [problem]


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
    assert facts(caught.value) == [
        ("recipe.missing-key", "recipe.yaml:14: data.options.many.x.name", {}),
        (
            "recipe.unknown-key",
            "recipe.yaml:14: data.options.many.x.nam",
            {"key": "nam", "nearest": "name"},
        ),
        (
            "recipe.wrong-type",
            "recipe.yaml:14: data.options.size",
            {"value": 2.5, "expected": "an integer or text"},
        ),
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
    assert "log_interval: 10" in text


def test_a_recipe_made_in_python_keeps_the_same_rules():
    train = TrainingConfig(
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
    assert facts(caught.value) == [
        ("recipe.no-language-model", "modules", {"given": ("vision",)}),
        ("recipe.out-of-range", "modules.vision.grid.tp", {"value": 0, "least": 1}),
        ("recipe.out-of-range", "train.iterations", {"value": 0, "least": 1}),
    ]


@pytest.mark.parametrize("number", ["010", "12:30", "-012", "1:00:00", "00"])
def test_a_number_that_yaml_reads_in_base_8_or_60_is_no_number(number):
    (problem,) = facts(refused(RECIPE, f"train.seed={number}"))
    place = f"command line: train.seed={number}"
    assert problem == (
        "recipe.wrong-type",
        place,
        {"value": number, "expected": "an integer"},
    )


def test_a_float_of_any_options_class_is_finite():
    loaded = load_text(RECIPE, "recipe.yaml")
    for number in (float("inf"), float("-inf"), float("nan")):
        with pytest.raises(RecipeError) as caught:
            structure_options(loaded, ("data",), EyeOptions, {"scale": number})
        assert (caught.value.code, caught.value.path) == ("recipe.out-of-range", ("data", "scale"))
