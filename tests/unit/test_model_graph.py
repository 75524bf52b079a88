"""The graph and the plan: what plugins answer, and what is refused before a rank starts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest

from mimo_core import Edge, ModuleDescription, ParameterSpec, hookimpl
from mimo_core.errors import MimoError, PluginError, RecipeError
from mimo_core.planning.model_graph import build_graph
from mimo_core.planning.plan import make_plan
from mimo_core.recipe import load_text

from ..helpers.fake_plugins import RECIPE, EyeOptions, eye, host, pairs, words

TWO_EYES = RECIPE.replace("  language:\n", "  second: {plugin: eye}\n  language:\n")


def graph_of(text: str = RECIPE, **plugins: object):
    return build_graph(load_text(text, "recipe.yaml"), host(**plugins))


def edges(*given: Edge):
    @hookimpl
    def module_edges(module, modules):
        return list(given)

    return module_edges


def edge(source: str = "vision", target: str = "language", placeholder: str = "<image>") -> Edge:
    return Edge(source=source, target=target, placeholder=placeholder)


def description(**changes: object):
    @hookimpl
    def describe_module(module):
        known = {
            "hidden_size": 8,
            "num_layers": 6,
            "num_attention_heads": 8,
            "parameters": (ParameterSpec(num_parameters=1),),
        }
        return ModuleDescription(**(known | changes))

    return describe_module


def test_modules_carry_options_width_and_vocabulary():
    graph = graph_of(TWO_EYES)
    assert graph.encoders == ("vision", "second")
    assert graph.modules["vision"].options == EyeOptions(patch_size=14)
    assert graph.modules["second"].options == EyeOptions()
    assert graph.modules["language"].options is None
    assert graph.tokenizer.placeholders == ("<second>", "<vision>")
    assert graph.modules["language"].vocabulary_size == graph.tokenizer.size == 260
    assert graph.modules["vision"].vocabulary_size is None
    assert {module.language_width for module in graph.modules.values()} == {260}
    assert graph.descriptions["vision"].hidden_size == 130
    assert graph.descriptions["language"].num_experts == 16
    assert graph.rng_prefixes == {
        "vision": "vision.",
        "second": "second.",
        "language": "language.",
    }
    assert (graph.data.plugin, graph.data.options, graph.data.seed) == ("pairs", None, 1234)


def test_edges_are_sorted_whatever_the_order_of_the_recipe():
    graph = graph_of(TWO_EYES)
    assert [edge.source for edge in graph.edges] == ["second", "vision"]
    assert graph.edge_of("vision").placeholder == "<vision>"
    assert graph.edge_of("second").placeholder == "<second>"


def test_the_language_model_alone_is_a_graph():
    start, end = RECIPE.index("  vision:"), RECIPE.index("  language:")
    graph = graph_of(RECIPE[:start] + RECIPE[end:])
    assert (graph.encoders, graph.edges, graph.tokenizer.size) == ((), (), 258)


STAR = "megatron-core 0.19's MimoModel gives encoders no other module's output"


@pytest.mark.parametrize(
    ("plugins", "kind", "said"),
    [
        ({"eye": eye(module_edges=edges())}, RecipeError, "'vision' .* feeds nothing.*" + STAR),
        (
            {"eye": eye(module_edges=edges(edge(), edge(placeholder="<two>")))},
            RecipeError,
            "feeds language, language, but must feed 'language', once",
        ),
        ({"eye": eye(module_edges=edges(edge(target="vision")))}, RecipeError, STAR),
        (
            {"words": words(module_edges=edges(edge("language", "vision")))},
            RecipeError,
            "'language' .*feeds vision, but must feed no module: " + STAR,
        ),
        (
            {"eye": eye(module_edges=edges(edge(target="langage")))},
            PluginError,
            "an edge to 'langage', which the recipe does not have. Did you mean 'language'",
        ),
        (
            {"eye": eye(module_edges=edges(edge("language")))},
            PluginError,
            "gave an edge from 'language'; a module gives only edges that leave it",
        ),
        (
            {"eye": eye(module_edges=edges(edge(placeholder="")))},
            PluginError,
            "gave the placeholder ''",
        ),
        (
            {"eye": eye(describe_module=description(count_positions=len))},
            PluginError,
            "'describe_module' for module 'vision', gave a ModuleDescription without 'modality'",
        ),
        (
            {"eye": eye(describe_module=description(modality="image"))},
            PluginError,
            "without 'count_positions'",
        ),
        (
            {"eye": eye(describe_module=description(modality="image", count_positions=[256]))},
            PluginError,
            r"positions is \[256\] \(list\); expected a function that gives one whole number",
        ),
        (
            {
                "eye": eye(
                    rng_prefix=hookimpl(lambda module: ""),
                )
            },
            PluginError,
            "gave an empty text",
        ),
        (
            {"words": words(describe_module=None)},
            PluginError,
            "^recipe.yaml:9: modules.language.plugin:",
        ),
        (
            {"eye": words()},
            PluginError,
            r"^recipe.yaml:3: modules.vision.plugin: plugin 'eye' \(mimo-plugin-eye 0\) does not "
            r"implement module_edges, which an encoder needs \(the one language model is named "
            r"'language'\). Plugins .* takes: none",
        ),
        (
            {"pairs": words()},
            PluginError,
            "^recipe.yaml:15: data.plugin: .* does not implement build_dataset, which a dataset",
        ),
        (
            {"eye": eye(options_class=None)},
            RecipeError,
            "vision.options: plugin 'eye' takes no options",
        ),
    ],
)
def test_an_answer_that_makes_no_graph_is_refused(plugins, kind, said):
    with pytest.raises(kind, match=said):
        graph_of(**plugins)


def test_a_lambda_hook_is_registered_under_its_attribute():
    assert graph_of(eye=eye(rng_prefix=hookimpl(lambda module: "v"))).rng_prefixes["vision"] == "v"


def test_two_modules_may_not_share_a_placeholder():
    @hookimpl
    def module_edges(module, modules):
        return [edge(module.name)]

    with pytest.raises(RecipeError, match=r"'vision' \(plugin 'eye'\) and 'second' .*'<image>'"):
        graph_of(TWO_EYES, eye=eye(module_edges=module_edges))


def test_two_modules_may_not_share_an_rng_prefix():
    same = hookimpl(lambda module: "eye.")
    with pytest.raises(PluginError, match=r"'vision' .* and 'second' .* same rng prefix 'eye.'"):
        graph_of(TWO_EYES, eye=eye(rng_prefix=same))


def test_unknown_plugins_and_wrong_options_are_all_reported_with_their_places():
    text = RECIPE.replace("plugin: eye", "plugin: eyes").replace("plugin: pairs", "plugin: pears")
    with pytest.raises(PluginError) as caught:
        graph_of(text)
    first, second = str(caught.value).splitlines()
    assert first.startswith(
        "recipe.yaml:3: modules.vision.plugin: there is no plugin 'eyes'. Did you mean 'eye'? "
        "Installed: eye, pairs, words. To install it: pip install mimo-plugin-eyes"
    )
    assert second.startswith("recipe.yaml:15: data.plugin: there is no plugin 'pears'")
    text = RECIPE.replace("patch_size: 14", "patch_sise: 14\n      scale: x")
    with pytest.raises(RecipeError) as caught:
        graph_of(text + "", pairs=pairs(options_class=hookimpl(lambda: EyeOptions)))
    assert [said.partition(": ")[0] for said in str(caught.value).splitlines()] == [
        "recipe.yaml:7",
        "recipe.yaml:8",
    ]


def plan_of(tmp_path: Path, *overrides: str, world_size: int | None = None, **plugins: object):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return make_plan(path, overrides, host=host(**plugins), world_size=world_size)


def test_a_plan_holds_recipe_graph_and_layout(tmp_path: Path):
    plan = plan_of(tmp_path, "train.seed=7", world_size=8)
    assert plan.recipe.train.seed == plan.graph.data.seed == 7
    assert plan.layout.ranks("language") == range(4, 8)
    again = make_plan(plan.recipe, ["train.seed=8"], host=host())
    assert again.recipe == attrs.evolve(plan.recipe, train=attrs.evolve(plan.recipe.train, seed=8))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "modules.language.grid={tp: 8}",
            "modules.language.grid.tp: 8 does not divide groups 4; choose one of 1, 2, 4",
        ),
        (
            "modules.language.grid={tp: 2, cp: 9}",
            "modules.language.grid.cp: tp 2 x cp 9 = 18 does not divide states 48; choose one of "
            "1, 2, 3, 4, 6, 8, 12, 16, 24, 48",
        ),
        ("modules.vision.grid={dp: 2, ep: 2}", "grid.ep: 2, but this module has no experts"),
        (
            "train.sequence_length=65",
            "sequence_length=65: 65 is no multiple of 2 = cp 1 x tp 2 (sequence parallel) of "
            "language; the next that is: 66",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(tmp_path, override, said):
    """More of them in test_mistakes."""
    with pytest.raises(RecipeError) as caught:
        plan_of(tmp_path, override)
    assert any(said in message for message in str(caught.value).splitlines()), str(caught.value)


@attrs.frozen(kw_only=True)
class GlassOptions:
    width: int = 1


def glasses(**hooks: object) -> SimpleNamespace:
    """A plugin that wraps a module's description, and takes options."""

    @hookimpl
    def options_class():
        return GlassOptions

    @hookimpl(wrapper=True)
    def describe_module(module):
        inner = yield
        return attrs.evolve(inner, num_layers=inner.num_layers + module.wrappers["glasses"].width)

    return SimpleNamespace(
        **{"options_class": options_class, "describe_module": describe_module} | hooks
    )


WRAPPED = RECIPE.replace(
    "    freeze: [encoder]\n", "    wrappers:\n      glasses: {width: 3}\n    freeze: [encoder]\n"
)


def test_a_wrapper_changes_the_module_that_names_it_and_no_other():
    graph = graph_of(WRAPPED, glasses=glasses())
    assert graph.modules["vision"].wrappers == {"glasses": GlassOptions(width=3)}
    assert graph.modules["language"].wrappers == graph.data.wrappers == {}
    assert (graph.descriptions["vision"].num_layers, graph.descriptions["language"].num_layers) == (
        7,
        6,
    )


def test_an_override_reaches_a_wrappers_options_and_puts_a_wrapper_on():
    words = ["modules.vision.wrappers.glasses.width=9", "modules.language.wrappers.glasses={}"]
    loaded = load_text(WRAPPED, "recipe.yaml", words)
    graph = build_graph(loaded, host(glasses=glasses()))
    assert (graph.descriptions["vision"].num_layers, graph.descriptions["language"].num_layers) == (
        13,
        7,
    )


@pytest.mark.parametrize(
    ("text", "plugin", "said"),
    [
        (WRAPPED, None, "recipe.yaml:6: modules.vision.wrappers.glasses: there is no plugin 'gl"),
        (
            WRAPPED,
            words(),
            "recipe.yaml:6: modules.vision.wrappers.glasses: plugin 'glasses' (mimo-plugin-glasses "
            "0) wraps no hook of a module. Plugins that do: none",
        ),
        (
            RECIPE.replace("  plugin: pairs", "  plugin: pairs\n  wrappers: {glasses: {}}"),
            glasses(),
            "recipe.yaml:16: data.wrappers.glasses: plugin 'glasses' (mimo-plugin-glasses 0) wraps "
            "no hook of the data. Plugins that do: none",
        ),
        (
            WRAPPED.replace("width: 3", "with: 3"),
            glasses(),
            "recipe.yaml:6: modules.vision.wrappers.glasses.with: unknown key 'with'. Did you mean "
            "'width'? Known keys: width",
        ),
        (
            WRAPPED,
            glasses(options_class=None),
            "recipe.yaml:6: modules.vision.wrappers.glasses: plugin 'glasses' takes no options",
        ),
        (
            WRAPPED.replace("{width: 3}", "{width: 3}\n      glasses: {}"),
            glasses(),
            "recipe.yaml:7: modules.vision.wrappers.glasses: key 'glasses' is given twice, first",
        ),
    ],
    ids=["not installed", "wraps nothing", "of data", "option", "no options", "twice"],
)
def test_a_wrapper_that_cannot_be_is_refused_at_its_place(text, plugin, said):
    with pytest.raises(MimoError) as caught:
        graph_of(text, **({} if plugin is None else {"glasses": plugin}))
    assert str(caught.value).startswith(said)
