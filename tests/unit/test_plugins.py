"""Discovery, strict registration, and asking."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import attrs
import pytest

from mimo_core import (
    Edge,
    EncoderSpec,
    Grid,
    ModuleConfig,
    ModuleDescription,
    TrainingConfig,
    hookimpl,
)
from mimo_core.errors import MimoError, PluginError, RecipeError, SampleError
from mimo_core.plugins import Host

from ..helpers.fake_plugins import GOOD, eye, pairs, words
from ..helpers.problems import facts

TRAIN = TrainingConfig(
    iterations=1, micro_batch_size=1, global_batch_size=1, sequence_length=8, learning_rate=1.0
)
VISION = ModuleConfig(name="vision", plugin="a", grid=Grid(), train=TRAIN, language_width=8)
LANGUAGE = attrs.evolve(VISION, name="language")


def test_installed_plugins_are_found_sorted_with_their_versions(install):
    install("zebra", GOOD)
    install("ant", GOOD)
    host = Host.discover()
    assert [(r.name, r.distribution, r.version, r.state, r.hooks) for r in host.records] == [
        ("ant", "mimo-plugin-ant", "1.2", "usable", ("rng_prefix",)),
        ("zebra", "mimo-plugin-zebra", "1.2", "usable", ("rng_prefix",)),
    ]
    assert host.versions() == {"ant": "1.2", "zebra": "1.2"}


def test_the_real_metadata_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    info = tmp_path / "real-3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: real\nVersion: 3")
    (info / "entry_points.txt").write_text("[mimo.plugins]\nreal_fake = no_such_module\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    record = next(r for r in Host.discover(environ={}).records if r.name == "real_fake")
    assert (record.distribution, record.version, record.state) == ("real", "3", "broken")


def test_a_name_given_twice_names_both_distributions(install):
    install("ant", GOOD, "one-ant")
    install("ant", GOOD, "two-ant")
    with pytest.raises(PluginError, match=r"'ant'.*'one-ant'.*'two-ant'.*pip uninstall two-ant"):
        Host.discover()


@pytest.mark.parametrize(
    ("environ", "disabled", "usable", "why"),
    [
        ({}, ["bee"], ("ant", "cow"), "by --no-plugin"),
        ({"MIMO_PLUGINS": "ant, cow"}, [], ("ant", "cow"), "not in MIMO_PLUGINS"),
        ({"MIMO_PLUGINS": "ant,bee"}, ["bee"], ("ant",), "by --no-plugin"),
        ({"MIMO_DISABLE_PLUGIN_AUTOLOAD": "True"}, [], (), "by MIMO_DISABLE_PLUGIN_AUTOLOAD"),
        (
            {"MIMO_DISABLE_PLUGIN_AUTOLOAD": "1", "MIMO_PLUGINS": "ant"},
            [],
            ("ant",),
            "not in MIMO_PLUGINS",
        ),
    ],
)
def test_switches_act_before_import(install, environ, disabled, usable, why):
    for name in ("ant", "bee", "cow"):
        install(name, GOOD)
    host = Host.discover(disabled, environ)
    assert host.usable_plugins == usable
    bee = next(record for record in host.records if record.name == "bee")
    assert (bee.state, bee.reason) == ("disabled", why)
    assert "fake_mimo_plugin_bee" not in sys.modules
    with pytest.raises(PluginError, match=rf"'bee' \(mimo-plugin-bee 1.2\) is disabled: {why}"):
        host.call_hook("rng_prefix", "bee", module=VISION)


@pytest.mark.parametrize("off", ["0", "false", "No", "off", "", " "])
def test_a_switch_that_is_off_disables_nothing(install, off):
    install("ant", GOOD)
    assert Host.discover(environ={"MIMO_DISABLE_PLUGIN_AUTOLOAD": off}).usable_plugins == ("ant",)


def test_a_switch_that_is_neither_on_nor_off_is_refused(install):
    install("ant", GOOD)
    due = "MIMO_DISABLE_PLUGIN_AUTOLOAD=maybe: expected 1, true, yes, on, or 0, false, no, off"
    with pytest.raises(MimoError, match=due):
        Host.discover(environ={"MIMO_DISABLE_PLUGIN_AUTOLOAD": "maybe"})


@pytest.mark.parametrize(
    ("environ", "disabled", "where"),
    [({"MIMO_PLUGINS": "atn"}, [], "MIMO_PLUGINS"), ({}, ["atn"], "--no-plugin")],
)
def test_a_switch_for_what_is_not_installed_is_refused(install, environ, disabled, where):
    install("ant", GOOD)
    with pytest.raises(PluginError, match=f"{where} names plugin 'atn'.*Did you mean 'ant'"):
        Host.discover(disabled, environ)


def test_a_plugin_that_cannot_be_imported_fails_only_when_used(install):
    install("ant", GOOD)
    install("bad", "import no_such_thing")
    install("quits", "raise SystemExit(3)")
    host = Host.discover(environ={})
    assert host.call_hook("rng_prefix", "ant", module=VISION) == "p."
    assert host.records[2].reason == "SystemExit: 3"
    bad = host.records[1]
    assert (bad.state, bad.reason) == (
        "broken",
        "ModuleNotFoundError: No module named 'no_such_thing'",
    )
    with pytest.raises(
        PluginError, match=r"'bad' \(mimo-plugin-bad 1.2\).*no_such_thing"
    ) as caught:
        host.get_plugin("bad")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_an_unknown_plugin_says_what_is_installed_and_what_to_install():
    host = Host.from_plugins({"radio": eye(), "words": words()})
    with pytest.raises(PluginError) as caught:
        host.implements("describe_module", "raido")
    assert facts(caught.value) == [("plugin.not-installed", "", {"plugin": "raido"})]
    assert "Did you mean 'radio'? Installed: radio, words. " in caught.value.text
    assert caught.value.text.endswith("pip install mimo-plugin-raido")


def _default(module, groups=None):
    return None


def _args(*module):
    return None


def _kwargs(**module):
    return None


def _wrong(modul):
    return None


def _keyword(*, module):
    return None


def _yields(module):
    yield


def _nothing():
    yield


def _plain(module):
    return None


@pytest.mark.parametrize(
    ("hook", "function", "marks", "said"),
    [
        (
            "descrbe",
            _plain,
            {},
            "no hook 'descrbe'. Did you mean 'describe_module'. Hooks: build_dataset",
        ),
        ("descrbe", _plain, {"optionalhook": True}, "no hook 'descrbe'"),
        ("flops", _plain, {}, "no hook 'flops'. It is 'estimate_flops' now."),
        ("build_submodule", _default, {}, "gives its argument 'groups' a default"),
        ("describe_module", _args, {}, r"takes \*module.*describe_module\(module\)"),
        ("describe_module", _kwargs, {}, r"takes \*\*module"),
        (
            "describe_module",
            _wrong,
            {},
            "argument 'modul' that its specification lacks. Did you mean 'mo",
        ),
        ("describe_module", _keyword, {}, "'module' by keyword only"),
        ("describe_module", _yields, {}, "only a wrapper"),
        ("describe_module", _plain, {"wrapper": True}, "has no yield"),
        ("describe_module", _yields, {"hookwrapper": True}, "old style"),
        (
            "describe_module",
            _yields,
            {"wrapper": True, "tryfirst": True},
            "the recipe tells the order",
        ),
        ("options_class", _nothing, {"wrapper": True}, "hook 'options_class' cannot be wrapped"),
    ],
)
def test_a_function_that_does_not_fit_leaves_nothing_registered(hook, function, marks, said):
    def fresh(module):
        yield
        raise AssertionError("a wrapper of a refused plugin ran")

    copy = type(function)(function.__code__, {}, hook, function.__defaults__)
    copy.__kwdefaults__ = function.__kwdefaults__
    bad = SimpleNamespace(
        **{hook: hookimpl(**marks)(copy)},
        also=hookimpl(wrapper=True, specname="rng_prefix")(fresh),
    )
    host = Host.from_plugins({"bad": bad, "good": eye()})
    with pytest.raises(PluginError, match=rf"(?s)'bad' \(mimo-plugin-bad 0\).*{said}"):
        host.get_plugin("bad")
    assert host.usable_plugins == ("good",)
    assert host.call_hook("rng_prefix", "good", module=VISION) == "vision."


def test_two_answers_of_one_plugin_are_refused():
    def other(module):
        return None

    bad = eye(other=hookimpl(specname="describe_module")(other))
    with pytest.raises(
        PluginError, match="two functions of this plugin answer hook 'describe_module'"
    ):
        Host.from_plugins({"bad": bad}).get_plugin("bad")


def wrapped(*names: str) -> ModuleConfig:
    return attrs.evolve(VISION, wrappers=dict.fromkeys(names))


def test_only_the_plugin_itself_answers_and_the_wrappers_that_are_named_wrap_in_their_order():
    calls: list[str] = []

    def answer(name):
        @hookimpl
        def rng_prefix(module):
            calls.append(name)
            return name

        return rng_prefix

    def wrapper(name):
        @hookimpl(wrapper=True, specname="rng_prefix")
        def around(module):
            inner = yield
            return f"{name}({inner})"

        return around

    host = Host.from_plugins(
        {
            "a": SimpleNamespace(rng_prefix=answer("a")),
            "b": SimpleNamespace(rng_prefix=answer("b"), around=wrapper("b")),
            "c": SimpleNamespace(around=wrapper("c")),
        }
    )
    for _ in range(2):  # the second time from the cache
        assert host.call_hook("rng_prefix", "a", module=VISION) == "a"
        assert host.call_hook("rng_prefix", "a", module=wrapped("b", "c")) == "c(b(a))"
        assert host.call_hook("rng_prefix", "a", module=wrapped("c", "b")) == "b(c(a))"
        assert host.call_hook("rng_prefix", "b", module=wrapped("c")) == "c(b)"
        assert host.call_hook("rng_prefix", "b", module=wrapped("b")) == "b(b)"
    assert calls == ["a", "a", "a", "b", "b"] * 2
    assert host.implements("rng_prefix", "b")
    assert host.wrapped_hooks("module", "c") == ("rng_prefix",)
    assert host.wrapped_hooks("data", "c") == host.wrapped_hooks("module", "a") == ()
    assert not host.implements("rng_prefix", "c")
    assert host.records[2].hooks == ("rng_prefix (wraps)",)
    with pytest.raises(PluginError, match=r"'c'.*does not implement hook 'rng_prefix'"):
        host.call_hook("rng_prefix", "c", module=VISION)
    with pytest.raises(PluginError, match="there is no plugin 'd'"):
        host.call_hook("rng_prefix", "a", module=wrapped("d"))


def test_a_forgotten_mark_is_named():
    def describe(module):
        return None

    host = Host.from_plugins({"a": eye(describe_module=describe)})
    with pytest.raises(PluginError, match=r"'describe_module' lacks the mark @mimo_core.hookimpl"):
        host.call_hook("describe_module", "a", module=VISION)


ARGUMENTS = {
    "options_class": {},
    "module_edges": {"modules": {}},
    "build_submodule": {"groups": None, "platform": None},
    "provide_batch": {"samples": [], "context": None},
    "build_dataset": {"data": None, "split": "train"},
}
EDGE = Edge(source="vision", target="language", placeholder="<image>")


@pytest.mark.parametrize(
    ("hook", "module", "answer", "due"),
    [
        ("options_class", None, {"size": 1}, "an attrs class"),
        ("options_class", None, dict, "an attrs class"),
        ("describe_module", VISION, {"width": 1}, "a ModuleDescription"),
        ("describe_module", VISION, None, "a ModuleDescription"),
        ("module_edges", VISION, EDGE, "a sequence of Edge"),
        ("module_edges", VISION, [("vision", "language")], "a sequence of Edge"),
        ("rng_prefix", VISION, 3, "a str"),
        ("build_submodule", VISION, object(), "an Encoder"),
        ("build_submodule", LANGUAGE, EncoderSpec(tower=1, config=1), "a ModuleSpec"),
        ("provide_batch", VISION, [], "a dict or None"),
        ("build_dataset", None, 3, "a Dataset"),
    ],
)
def test_an_answer_of_a_wrong_type_names_plugin_hook_and_value(hook, module, answer, due):
    host = Host.from_plugins({"a": _answering(hook, answer)}, {"a": "7"})
    arguments = ARGUMENTS.get(hook, {}) | ({"module": module} if module else {})
    gave = "nothing" if answer is None else type(answer).__name__
    with pytest.raises(PluginError, match=rf"'a' \(mimo-plugin-a 7\), hook '{hook}'") as caught:
        host.call_hook(hook, "a", **arguments)
    assert f"not {due}" in str(caught.value)
    assert gave in str(caught.value)


@pytest.mark.parametrize(
    ("hook", "module", "answer"),
    [
        ("options_class", None, ModuleDescription),
        ("module_edges", VISION, (EDGE,)),
        ("module_edges", VISION, []),
        ("build_submodule", VISION, EncoderSpec(tower=1, config=1)),
        ("build_submodule", LANGUAGE, SimpleNamespace(module=object)),
        ("provide_batch", VISION, None),
        ("provide_batch", VISION, {"pixels": 1}),
        ("build_dataset", None, []),
    ],
)
def test_an_answer_that_fits_is_given_as_it_is(hook, module, answer):
    host = Host.from_plugins({"a": _answering(hook, answer)})
    arguments = ARGUMENTS.get(hook, {}) | ({"module": module} if module else {})
    assert host.call_hook(hook, "a", **arguments) is answer


def _answering(hook: str, answer: object) -> ModuleType:
    plugin = ModuleType("fake")
    plugin.answer = hookimpl(specname=hook)(lambda: answer)
    return plugin


def test_an_exception_carries_plugin_hook_module_and_cause():
    @hookimpl
    def rng_prefix(module):
        raise KeyError("lost")

    host = Host.from_plugins({"a": eye(rng_prefix=rng_prefix)})
    with pytest.raises(PluginError) as caught:
        host.call_hook("rng_prefix", "a", module=VISION)
    line = rng_prefix.__code__.co_firstlineno + 2
    place = {"plugin": "a", "hook": "rng_prefix", "module": "vision", "file": __file__}
    assert facts(caught.value) == [("plugin.hook-failed", "", {**place, "line": line})]
    assert "mimo-plugin-a 0" in caught.value.text and "KeyError: 'lost'" in caught.value.text
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.traceback[-1].path != Path(__file__)
    assert caught.value.__cause__.__traceback__ is not None


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            RecipeError("words.csv:3: empty", code="words.empty", line=3),
            "plugin 'a' (mimo-plugin-a 0): words.csv:3: empty",
        ),
        (
            SampleError("sample 7 is too long", code="sample.too-long", sample=7),
            "sample 7 is too long",
        ),
    ],
)
def test_what_a_plugin_says_to_users_is_told_without_its_place_in_the_code(error, text):
    @hookimpl
    def rng_prefix(module):
        raise error

    host = Host.from_plugins({"a": eye(rng_prefix=rng_prefix)})
    with pytest.raises(MimoError) as caught:
        host.call_hook("rng_prefix", "a", module=VISION)
    assert (caught.value.text, facts(caught.value)) == (text, facts(error))


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_exception_of_a_wrapper_blames_the_wrapping_plugin(when):
    @hookimpl(wrapper=True)
    def rng_prefix(module):
        if when == "before":
            raise OSError("disk")
        yield
        raise OSError("disk")

    host = Host.from_plugins({"a": eye(), "b": SimpleNamespace(rng_prefix=rng_prefix)})
    with pytest.raises(
        PluginError, match=r"'b' \(mimo-plugin-b 0\).*failed \(around plugin 'a'\): OSError: disk"
    ):
        host.call_hook("rng_prefix", "a", module=wrapped("b"))


def test_an_inner_exception_that_passes_a_wrapper_blames_the_inner_plugin():
    @hookimpl(wrapper=True, specname="rng_prefix")
    def around(module):
        return (yield)

    @hookimpl
    def rng_prefix(module):
        raise OSError("disk")

    host = Host.from_plugins({"a": eye(rng_prefix=rng_prefix), "b": SimpleNamespace(w=around)})
    with pytest.raises(PluginError, match=r"'a' \(mimo-plugin-a 0\).*failed: OSError: disk"):
        host.call_hook("rng_prefix", "a", module=wrapped("b"))


def test_the_digest_tells_versions_and_sets_apart_and_nothing_else():
    def digest(versions, *names):
        plugins = {"a": eye(), "b": pairs()}
        return Host.from_plugins(plugins, versions).digest(names or None)

    assert digest({"a": "1", "b": "2"}) == digest({"b": "2", "a": "1"})
    assert digest({"a": "1", "b": "2"}, "b", "a") == digest({"a": "1", "b": "2"})
    seen = {
        digest({"a": "1", "b": "2"}),
        digest({"a": "1", "b": "3"}),
        digest({"a": "1", "b": "2"}, "a"),
        digest({"a": "1", "b": "2"}, "b"),
    }
    assert len(seen) == 4
