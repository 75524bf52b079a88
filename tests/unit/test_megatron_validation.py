"""Megatron's settings in a recipe: known, the user's to set, of the right type."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_origin

import attrs
import pytest

import mimo_core
from mimo_core import hookimpl
from mimo_core.errors import RecipeError
from mimo_core.planning.megatron_validation import _owned
from mimo_core.planning.model_graph import build_graph
from mimo_core.planning.validation import validate
from mimo_core.plugins import Host
from mimo_core.recipe import Recipe, load_text, megatron_flags, megatron_schema
from mimo_core.testing import run_ranks

from ..helpers.fake_plugins import RECIPE, host, words
from ..helpers.paths import RANK_FUNCTIONS
from ..helpers.problems import facts

PACKAGE = Path(mimo_core.__file__).parent


@pytest.fixture(scope="module")
def real() -> dict[str, Any]:
    """What megatron itself says, on a rank."""
    return run_ranks(f"{RANK_FUNCTIONS / 'config.py'}:configs")[0]


def test_fields_of_a_recipe_reach_the_config_and_win_over_the_plugins(real: dict[str, Any]) -> None:
    assert real["set"] == {
        "recompute_granularity": "full",
        "recompute_method": "uniform",
        "recompute_num_layers": "1",
        "attention_backend": "AttnBackend.unfused",
        "hidden_dropout": "0.5",
    }


def test_the_source_is_read_as_megatron_reads_it(real: dict[str, Any]) -> None:
    assert real["known"] == real["fields"]
    assert set(real["flags"]) <= megatron_schema.flags() | {"help"}


def test_flags_that_are_refused_are_flags(real: dict[str, Any]) -> None:
    known = {*real["flags"], *real["fields"]}
    assert {*megatron_schema.UNREAD_FLAGS, *megatron_schema.REFUSED_FLAGS} <= known
    assert known >= megatron_schema.ENGINE_FLAGS


def test_every_stock_flag_is_in_one_class(real: dict[str, Any]) -> None:
    """A flag that a new version of Megatron adds belongs into one: see ``stock_flags``."""
    fields = {*real["fields"]}

    def classes(flag: str) -> list[str]:
        bare = {flag.removeprefix(prefix) for prefix in ("no_", "disable_")} - {flag}
        found = {
            "engine": flag in megatron_schema.ENGINE_FLAGS,
            "field": flag in fields - megatron_schema.ENGINE_FLAGS or bool(bare & fields),
            "unread": flag in {*megatron_schema.UNREAD_FLAGS} - fields,
            "refused": flag in megatron_schema.REFUSED_FLAGS,
            "free": flag in megatron_flags.FREE_FLAGS,
            "competing": flag in megatron_flags.COMPETING_FLAGS,
            "of a field": flag in megatron_flags.FIELD_FLAGS,
        }
        listed = [name for name, is_in in found.items() if is_in]
        return listed or ["family"] * (megatron_flags.refusal(flag) is not None)

    wrong = {flag: classes(flag) for flag in real["flags"] if len(classes(flag)) != 1}
    assert wrong == {"help": []}
    listed = megatron_flags.LISTED | {*megatron_flags.ENGINE_KEYS}
    assert listed <= {*real["flags"], *real["fields"]}
    assert {*megatron_flags.ENGINE_KEYS} <= megatron_schema.ENGINE_FLAGS


def test_another_name_of_a_flag_of_the_engine_is_refused_too(real: dict[str, Any]) -> None:
    """Such as ``--persistent-save-interval``, which sets what ``--save-interval`` does."""
    flags = megatron_schema.ENGINE_FLAGS & {*real["flags"]}
    engines = {real["destinations"][flag] for flag in flags}
    same = {flag for flag, destination in real["destinations"].items() if destination in engines}
    assert same <= megatron_schema.ENGINE_FLAGS


SECTIONS = "modules|data|train|tokenizer|validation|checkpoint|profile|placement"
RECIPE_KEY = re.compile(rf"(?<![\w.])(?:{SECTIONS})\.[A-Za-z_]+(?:\.[a-z_]+)*")


def is_key(words: str) -> bool:
    """Whether a recipe has such a key, or takes one there."""
    kind: Any = Recipe
    for word in words.split("."):
        if kind is dict:  # the options of a plugin, fields of Megatron
            return True
        if get_origin(kind) is dict:
            value = get_args(kind)[1]
            kind = dict if value is Any else value
            continue
        if not attrs.has(kind):
            return False
        names = {field.name: field.type for field in attrs.fields(attrs.resolve_types(kind))}
        if word not in names:
            return False
        kind = names[word]
    return True


def spelled(node: ast.AST) -> str:
    """A text of the source; what is put into it stands as ``NAME``."""
    if isinstance(node, ast.JoinedStr):
        return "".join(spelled(value) or "NAME" for value in node.values)
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return node.value if is_text else ""  # type: ignore[return-value, attr-defined]


def test_what_messages_advise_is_a_key_of_a_recipe() -> None:
    assert is_key("modules.NAME.grid.tp")
    assert not is_key("train.lr")
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = spelled(node)
            if " " in text:
                found += [(path.name, key) for key in RECIPE_KEY.findall(text)]
    files = ("json", "py", "md", "yaml", "jsonl")
    # An argument of a hook, modules of Python, a key that is misspelt on purpose, and fields of a
    # checkpoint's manifest.
    others = {"data.seed", "train.starting.starting_weights", "modules.vision.grid.dq"}
    others |= {"layout.world_size", "layout.modules", "train.going_on"}
    wrong = {place for place in found if not is_key(place[1])}
    wrong = {place for place in wrong if not place[1].endswith(files) and place[1] not in others}
    assert len(found) > 100
    assert wrong == set()


def test_fields_that_messages_advise_are_there(real: dict[str, Any]) -> None:
    for advice in megatron_flags.FIELD_FLAGS.values():
        field, _, value = advice.partition(": ")
        assert field in real["fields"], advice
        assert value


@pytest.mark.parametrize("plugin", ["gpt", "nemotron", "radio", "hf-vision", "whisper"])
def test_what_a_plugin_sets_itself_is_refused_with_an_option_that_is_there(plugin: str) -> None:
    """Of every field that any of the plugins owns."""
    options = Host.discover().call_hook("options_class", plugin)
    names = {field.name for field in attrs.fields(options)}
    module = SimpleNamespace(name="it", plugin=plugin, options=object.__new__(options))
    for field in [*megatron_schema.transformer_fields(), "mtp_num_layers"]:
        said = _owned(field, module)  # type: ignore[arg-type]
        _, has_option, option = said.partition("modules.it.options.")
        if has_option:
            assert option.removesuffix("; set that").removesuffix("?") in names
        else:
            assert said.endswith("has no option of that name; leave it out")


def test_what_the_engine_sets_a_recipe_may_not(real: dict[str, Any]) -> None:
    never = {"fp16", "fp8", "fp4", "virtual_pipeline_model_parallel_size"}
    never |= {"hierarchical_context_parallel_sizes", "hybrid_context_parallel"}
    never |= {"enable_cuda_graph", "external_cuda_graph", "cuda_graph_scope"}
    never |= {"inference_cuda_graph_scope"}
    never |= {"tp_comm_overlap", "distribute_saved_activations", "config_logger_dir"}
    refused = set(real["refused"]) | never | {"sequence_parallel"}
    assert refused == set(megatron_schema.ENGINE_FIELDS)


def of_width(width: int, captures: set[str] | None = None):
    @hookimpl
    def describe_module(module):
        plain = words().describe_module(module)
        told = {"vocab_size": width, "supports_packing": False, "graphable_layers": captures}
        return attrs.evolve(plain, owned_config_fields=frozenset({"hidden_size"}), **told)

    return words(describe_module=describe_module)


NOTHING_CAPTURED = (
    "nothing is captured with cuda_graph_impl: none, the default; set cuda_graph_impl: local, or "
    "leave it out"
)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        (
            "modules.language.megatron.cp_comm_type=a2a+p2p",
            ("megatron.refused-value", {"field": "cp_comm_type", "value": "a2a+p2p"}),
        ),
        (
            "modules.language.megatron.recompute_granularty=full",
            (
                "megatron.unknown-field",
                {"field": "recompute_granularty", "nearest": "recompute_granularity"},
            ),
        ),
        (
            "modules.language.megatron.recompute_granularity=ful",
            ("recipe.unknown-choice", {"value": "ful"}),
        ),
        (
            "modules.language.megatron.attention_backend=flsh",
            ("recipe.unknown-choice", {"value": "flsh"}),
        ),
        (
            "modules.language.megatron.recompute_granularity=full",
            ("megatron.recomputation", {}),
        ),
        (
            "megatron.recompute_num_layers=1",
            ("megatron.recomputation", {}),
        ),
        (
            "modules.language.megatron.recompute_modules=[moe]",
            ("megatron.recomputation", {}),
        ),
        (
            "megatron.tp_comm_overlap=true",
            ("megatron.engine-field", {"field": "tp_comm_overlap"}),
        ),
        (
            "modules.language.megatron.hidden_dropout=no",
            ("recipe.wrong-type", {"value": False, "expected": "a number"}),
        ),
        (
            "modules.language.megatron.hidden_size=8",
            ("megatron.plugin-field", {"field": "hidden_size"}),
        ),
        (
            "megatron.hidden_size=8",
            ("megatron.refused-flag", {"flag": "hidden_size", "instead": "modules.NAME.options"}),
        ),
        (
            "modules.vision.megatron.tensor_model_parallel_size=2",
            ("megatron.engine-field", {"field": "tensor_model_parallel_size"}),
        ),
        (
            "modules.vision.megatron.bf16=true",
            ("megatron.engine-field", {"field": "bf16"}),
        ),
        (
            "modules.vision.megatron.activation_func=gelu",
            ("megatron.refused-value", {"field": "activation_func"}),
        ),
        (
            "megatron.lr=1",
            ("megatron.refused-flag", {"flag": "lr", "instead": "train.learning_rate"}),
        ),
        (
            "megatron.lr_warmup_fraction=0.5",
            ("megatron.refused-flag", {"flag": "lr_warmup_fraction"}),
        ),
        (
            "megatron.no_rope_fusion=true",
            ("megatron.refused-flag", {"flag": "no_rope_fusion"}),
        ),
        (
            "megatron.rl_profile=true",
            ("megatron.refused-flag", {"flag": "rl_profile"}),
        ),
        (
            "megatron.no_log_throughput=true",
            ("megatron.unknown-flag", {"flag": "no_log_throughput", "nearest": "log_throughput"}),
        ),
        (
            "megatron.lr_warmup_iter=3",
            ("megatron.unknown-flag", {"flag": "lr_warmup_iter", "nearest": "lr_warmup_iters"}),
        ),
        (
            "megatron.log_throughputt=true",
            ("megatron.unknown-flag", {"flag": "log_throughputt", "nearest": "log_throughput"}),
        ),
        (
            "megatron.cuda_graph_impl=local",
            ("megatron.refused-flag", {"flag": "cuda_graph_impl"}),
        ),
        (
            "modules.language.megatron.cuda_graph_impl=transformer_engine",
            ("megatron.cuda-graphs", {}),
        ),
        (
            "modules.language.megatron.cuda_graph_impl=lokal",
            ("megatron.cuda-graphs", {}),
        ),
        ("modules.language.megatron.cuda_graph_modules=[mamba]", ("megatron.cuda-graphs", {})),
        (
            "modules.vision.megatron.cuda_graph_impl=local",
            ("megatron.cuda-graphs", {}),
        ),
        (
            "modules.vision.megatron.cuda_graph_impl=full_iteration",
            ("megatron.cuda-graphs", {}),
        ),
        (
            "modules.vision.megatron.cuda_graph_impl=lokal",
            ("megatron.cuda-graphs", {}),
        ),
        (
            "modules.vision.megatron.cuda_graph_modules=[attn]",
            ("megatron.cuda-graphs", {}),
        ),
        (
            "megatron.exit_interval=abc",
            ("recipe.wrong-type", {"value": "abc", "expected": "an integer"}),
        ),
        ("megatron.ddp_bucket_size=0", ("recipe.out-of-range", {"value": 0, "least": 1})),
        ("megatron.adam_beta1=1.5", ("recipe.out-of-range", {"value": 1.5})),
        ("megatron.adam_beta2=-0.1", ("recipe.out-of-range", {"value": -0.1})),
        ("megatron.adam_eps=0", ("recipe.out-of-range", {"value": 0})),
        ("megatron.adam_eps=.inf", ("recipe.out-of-range", {"value": float("inf")})),
        (
            "megatron.log_throughput=5",
            ("recipe.wrong-type", {"value": 5, "expected": "true or false"}),
        ),
        (
            "megatron.rerun_mode=of",
            ("recipe.unknown-choice", {"value": "of"}),
        ),
        (
            "megatron.optimizer=sgd",
            ("megatron.refused-flag", {"flag": "optimizer", "instead": "adam"}),
        ),
        (
            "megatron.num_experts=4",
            ("megatron.refused-flag", {"flag": "num_experts"}),
        ),
        (
            "megatron.rampup_batch_size=[4, 4, 16]",
            ("megatron.refused-flag", {"flag": "rampup_batch_size"}),
        ),
        (
            "megatron.no_masked_softmax_fusion=true",
            ("megatron.refused-flag", {"flag": "no_masked_softmax_fusion"}),
        ),
        (
            "modules.vision.packing=true",
            ("plugin.no-packing", {"plugin": "eye"}),
        ),
        (
            "modules.vision.lr_mult=0",
            ("recipe.out-of-range", {"value": 0.0}),
        ),
        (
            "modules.vision.wd_mult=-1",
            ("recipe.out-of-range", {"value": -1.0, "least": 0}),
        ),
    ],
)
def test_a_wrong_setting_is_named_with_the_way_out(
    override: str, problem: tuple[str, dict[str, Any]]
) -> None:
    with pytest.raises(RecipeError) as caught:
        loaded = load_text(RECIPE, "recipe.yaml", [override])
        validate(loaded, build_graph(loaded, host(words=of_width(300))))
    assert facts(caught.value) == [(problem[0], f"command line: {override}", problem[1])]


@pytest.mark.parametrize(
    "override", ["megatron.fp16=true", "modules.vision.megatron.fp16=true", "megatron.fp8=e4m3"]
)
def test_a_refused_precision_says_why(override: str) -> None:
    loaded = load_text(RECIPE, "recipe.yaml", [override])
    with pytest.raises(RecipeError, match=r"in core 0\.19|core 0\.19 takes"):
        validate(loaded, build_graph(loaded, host()))


def test_no_layers_cannot_be_recomputed_together() -> None:
    """The stock loop over them would not end."""
    fields = "{recompute_granularity: full, recompute_method: uniform, recompute_num_layers: 0}"
    loaded = load_text(RECIPE, "recipe.yaml", [f"modules.language.megatron={fields}"])
    with pytest.raises(RecipeError, match=r"recompute_num_layers: must be at least 1 .*, got 0"):
        validate(loaded, build_graph(loaded, host()))


def test_what_megatron_does_not_take_is_told_with_module_and_fields(real: dict[str, Any]) -> None:
    said = "modules.language.megatron: Megatron does not take these fields for plugin 'words'"
    assert real["wrong"].startswith(said)
    assert "recompute_modules: ['bogus']" in real["wrong"]
    assert real["wrong"].count("bogus") == 2, "what Megatron says of it"


def test_fused_loss_is_of_modules_alone(real: dict[str, Any]) -> None:
    """As a flag Megatron refuses it, whatever TransformerEngine is installed."""
    assert real["parsed"] == ["log_throughput"]


def test_gradients_are_not_saved_while_they_are_reduced_in_backward() -> None:
    flags = ("megatron.overlap_grad_reduce=true", "megatron.save_wgrads_interval=2")
    loaded = load_text(RECIPE, "recipe.yaml", flags)
    with pytest.raises(RecipeError, match="save_wgrads_interval=2: does not go with overlap_grad"):
        validate(loaded, build_graph(loaded, host()))


def test_a_stock_field_acts_on_every_module_that_does_not_set_it() -> None:
    both = ["megatron.hidden_dropout=0.5", "modules.vision.megatron.hidden_dropout=0.25"]
    loaded = load_text(RECIPE, "recipe.yaml", [*both, "megatron.log_throughput=true"])
    graph = build_graph(loaded, host())
    validate(loaded, graph)
    assert graph.modules["vision"].megatron == {"hidden_dropout": 0.25}
    assert graph.modules["language"].megatron == {"hidden_dropout": 0.5}


def test_a_placeholder_outside_the_vocabulary_is_named() -> None:
    loaded = load_text(RECIPE, "recipe.yaml")
    with pytest.raises(RecipeError) as caught:
        validate(loaded, build_graph(loaded, host(words=of_width(258))))
    place = "recipe.yaml:8: modules.language.options"
    values = {"ids": 259, "rows": 258}
    assert facts(caught.value) == [("tokenizer.vocabulary-too-large", place, values)]
    assert "placeholder '<vision>' (id 258)" in str(caught.value)


def test_cuda_graphs_are_of_layers_that_have_one_shape() -> None:
    here, whole = "modules.language.megatron", "modules.language.grid={tp: 1, dp: 2}"

    def told(*overrides: str) -> str:
        graphs = f"{here}.cuda_graph_impl=local"
        loaded = load_text(RECIPE, "recipe.yaml", [whole, graphs, *overrides])
        with pytest.raises(RecipeError) as caught:
            validate(loaded, build_graph(loaded, host(words=of_width(300))))
        assert "megatron.cuda-graphs" in {problem.code for problem in caught.value.problems}
        return caught.value.text

    listed = f"{here}.cuda_graph_modules=[mamba, attn]"
    untried = "not tried with it; leave one of both out"
    twice = told(f"{here}.cuda_graph_modules=[mamba, attn, mamba]")
    assert twice.endswith("lists mamba 2 times; list it once")
    assert "mlp is refused: core 0.19 cannot build" in told(f"{here}.cuda_graph_modules=[mlp]")
    loaded = load_text(RECIPE, "recipe.yaml", [whole, f"{here}.cuda_graph_impl=local", listed])
    with pytest.raises(RecipeError, match=r"mamba captures nothing of this model, .* have attn;"):
        validate(loaded, build_graph(loaded, host(words=of_width(300, captures={"attn"}))))
    wrong = ("[attn, router]", "[[attn]]", "attn", "[]")
    for parts in ((), *((f"{here}.cuda_graph_modules={each}",) for each in wrong)):
        said = told(*parts)
        assert "must list what is captured, of mamba, attn, moe" in said
        assert "\n" not in said
    for override, hindrance in (
        ("modules.language.grid={dp: 2, ep: 2}", "grid ep 2"),
        ("modules.language.grid={dp: 2, etp: 2}", "grid etp 2"),
        ("train.precision=fp32", "precision fp32"),
    ):
        experts = f"{here}.cuda_graph_modules=[attn, moe]"
        assert f"moe does not go with {hindrance}" in told(experts, override)
    for override, hindrance in (
        ("modules.language.grid={tp: 2}", f"grid tp 2: {untried}"),
        ("modules.language.grid={pp: 2}", "grid pp 2: core 0.19 captures a layer once for every"),
        ("modules.language.freeze=[language]", f"freeze: {untried}"),
        ("megatron.overlap_grad_reduce=true", f"megatron.overlap_grad_reduce: {untried}"),
        (f"{here}.recompute_granularity=selective", f"recompute_granularity selective: {untried}"),
        (
            f"{here}={{cuda_graph_impl: local, cuda_graph_modules: [attn], recompute_granularity: "
            "full, recompute_method: uniform, recompute_num_layers: 1}",
            "recompute_granularity full: core 0.19 takes it with a graph of the whole iteration",
        ),
    ):
        assert f": does not go with {hindrance}" in told(listed, override)
    for well in ((f"{here}.cuda_graph_impl=local", listed), (f"{here}.cuda_graph_impl=none",)):
        loaded = load_text(RECIPE, "recipe.yaml", [whole, *well])
        validate(loaded, build_graph(loaded, host(words=of_width(300))))


def test_cuda_graphs_of_an_encoder_are_of_a_tower_that_does_not_learn() -> None:
    here = "modules.vision"
    graphs, alone = f"{here}.megatron.cuda_graph_impl=local", f"{here}.grid={{dp: 2}}"

    def told(*overrides: str) -> str:
        loaded = load_text(RECIPE, "recipe.yaml", [graphs, alone, *overrides])
        with pytest.raises(RecipeError) as caught:
            validate(loaded, build_graph(loaded, host(words=of_width(300))))
        assert "megatron.cuda-graphs" in {problem.code for problem in caught.value.problems}
        return caught.value.text

    def well(*overrides: str) -> None:
        loaded = load_text(RECIPE, "recipe.yaml", [alone, *overrides])
        validate(loaded, build_graph(loaded, host(words=of_width(300))))

    learns = (
        "a tower is captured where it does not learn, as its graph has no backward; add encoder to "
        "modules.vision.freeze, or leave cuda_graph_impl out"
    )
    for freeze in ("[]", "[projector]"):
        said = told(f"{here}.freeze={freeze}")
        assert said == f"command line: {graphs}: {learns}"
    messages = "its ranks would send messages within the graph, which was not tried"
    for size in ("tp", "cp", "pp", "ep", "etp"):
        said = told(f"{here}.grid={{{size}: 2, dp: 2}}")
        assert (
            f"{graphs}: does not go with grid {size} 2: {messages}; leave one of both out" in said
        )
    for freeze in ("[encoder]", "[encoder, projector]"):
        well(graphs, f"{here}.freeze={freeze}")
    warm = f"{here}.megatron.cuda_graph_warmup_steps=2"
    said = told(f"{here}.freeze=[encoder]", warm)
    whole = "is of graphs of layers, and a tower is captured whole; leave it out"
    assert said == f"command line: {warm}: {whole}"
    well(f"{here}.megatron.cuda_graph_impl=none", f"{here}.freeze=[]")


def test_cuda_graphs_are_of_towers_that_nothing_wraps() -> None:
    loaded = load_text(
        RECIPE,
        "recipe.yaml",
        [
            "modules.vision.megatron.cuda_graph_impl=local",
            "modules.vision.grid={dp: 2}",
        ],
    )
    graph = build_graph(loaded, host(words=of_width(300)))
    wrapped = attrs.evolve(graph.modules["vision"], wrappers={"lora": None})
    graph = attrs.evolve(graph, modules={**graph.modules, "vision": wrapped})
    with pytest.raises(RecipeError, match="does not go with wrappers: not tried with it; leave"):
        validate(loaded, graph)


def test_an_encoders_layers_are_not_told_of_graphs(real: dict[str, Any]) -> None:
    assert real["graphs"] == {"vision": "none", "language": "local"}
