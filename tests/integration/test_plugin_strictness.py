"""Plugins that misbehave, really installed beside good ones: what a person is told of each.

One environment for all; where a fault is of the environment itself, one more.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from mimo_core.launch.rank_env import free_port

from ..helpers.overlay import Overlay
from ..helpers.paths import PLUGINS, RECIPES
from ..helpers.small_wheels import small_wheel

WORDS = (PLUGINS / "words_plugin.py").read_text()
CONTRACT = 'mimo_contract = "1.0"\n'
RECIPE = (RECIPES / "text_only.yaml").read_text()
STUBBORN = """
import os
import mimo_core as mimo
from mimo_plugin_nemotron import plugin as real

mimo_contract = "1.0"
HOOK, _, DEED = os.environ.get("FAULT", "").partition(" ")

def answer(hook, *arguments):
    if hook == HOOK:
        if DEED == "raise":
            raise RuntimeError("the planted fault")
        if DEED == "exit":
            raise SystemExit(3)
        return {"none": None, "number": 17}[DEED]
    return getattr(real, hook, lambda *_: [])(*arguments)

@mimo.hookimpl
def options_class(): return answer("options_class")
@mimo.hookimpl
def describe_module(module): return answer("describe_module", module)
@mimo.hookimpl
def module_edges(module, modules): return answer("module_edges", module, modules)
@mimo.hookimpl
def rng_prefix(module): return answer("rng_prefix", module)
@mimo.hookimpl
def build_submodule(module, groups, platform):
    return answer("build_submodule", module, groups, platform)
@mimo.hookimpl
def provide_batch(module, samples, context):
    return answer("provide_batch", module, samples, context)
@mimo.hookimpl
def param_mappings(module): return answer("param_mappings", module)
@mimo.hookimpl
def build_dataset(data, split): return answer("build_dataset", data, split)
@mimo.hookimpl
def preview_samples(data): return answer("preview_samples", data)
"""
"""Answers all hooks as nemotron does, but for the one that FAULT names."""

INSTALLED = {
    "words": WORDS,
    "stubborn": STUBBORN,
    "unfindable": f"{CONTRACT}import no_such_package\n",
    "quitting": f"{CONTRACT}import sys\nsys.exit(4)\n",
    "talking": f"{CONTRACT}print('hello from talking')\n{WORDS}",
    "slow": f"{CONTRACT}import torch\n{WORDS}",
    "future": 'mimo_contract = "4.2"\n' + WORDS.replace(CONTRACT, ""),
    "unstated": WORDS.replace(CONTRACT, ""),
    "misspelt": WORDS.replace("def build_dataset", "def build_datasets"),
    "argued": WORDS.replace("def build_dataset(data", "def build_dataset(dato"),
    "twofold": WORDS + "\n@mimo.hookimpl(specname='build_dataset')\ndef other(data): return None\n",
}


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory, wheels: dict[str, Path]) -> Overlay:
    """The core, good plugins, and all of the bad ones that can live side by side."""
    folder = tmp_path_factory.mktemp("crowd")
    bad = [small_wheel(folder, name, code) for name, code in INSTALLED.items()]
    overlay = Overlay.make(folder, [*wheels.values(), *bad])
    (overlay.work / "recipe.yaml").write_text(RECIPE)
    (overlay.work / "stubborn.yaml").write_text(RECIPE.replace("nemotron", "stubborn"))
    return overlay


@pytest.fixture(scope="module")
def listed(crowd: Overlay) -> dict[str, dict[str, object]]:
    """What the listing says of each; its output is nothing but JSON."""
    done = crowd.run("mimo", "plugins", "list", "--json")
    assert done.returncode == 0, done.stderr
    return {record["name"]: record for record in json.loads(done.stdout)}


@pytest.mark.parametrize(
    ("plugin", "why"),
    [
        ("unfindable", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("quitting", "SystemExit: 4"),
        ("future", "written for contract 4.2, but mimo-core 0.1.0 offers contract 1."),
        ("unstated", "states no contract version; write mimo_contract = '1."),
        ("misspelt", "there is no hook 'build_datasets'. Did you mean 'build_dataset'?"),
        ("argued", "hook 'build_dataset' takes an argument 'dato' that its specification lacks"),
        ("twofold", "two functions of this plugin answer hook 'build_dataset'"),
    ],
)
def test_what_cannot_be_used_is_listed_with_the_reason(listed, plugin: str, why: str) -> None:
    assert listed[plugin]["state"] == "broken"
    assert why in str(listed[plugin]["reason"])


@pytest.mark.parametrize(
    ("plugin", "warning"),
    [
        ("talking", "prints when it is imported ('hello from talking')"),
        ("slow", "imports torch (at "),
    ],
)
def test_bad_manners_are_told_and_borne(listed, plugin: str, warning: str) -> None:
    assert listed[plugin]["state"] == "usable"
    assert warning in str(listed[plugin]["warnings"])


def test_a_broken_plugin_hinders_only_the_recipe_that_names_it(crowd: Overlay) -> None:
    assert crowd.run("mimo", "plan", "recipe.yaml").returncode == 0
    done = crowd.run("mimo", "plan", "recipe.yaml", "data.plugin=unfindable")
    assert done.returncode == 2
    assert done.stderr.startswith("command line: data.plugin=unfindable: ")
    assert "plugin 'unfindable' (mimo-plugin-unfindable 1.0) cannot be used: " in done.stderr
    assert "No module named 'no_such_package'" in done.stderr
    assert "Traceback" not in done.stderr


FEW = {"MIMO_PLUGINS": "nemotron,words,stubborn"}
"""Those that a test needs: the slow one is not waited for."""
SAID = {
    "raise": "failed: RuntimeError: the planted fault (at ",
    "exit": "failed: SystemExit: 3 (at ",
    "none": "gave nothing (None), not ",
    "number": "gave 17 (int), not ",
}
STUBBORN_TITLE = "plugin 'stubborn' (mimo-plugin-stubborn 1.0), hook "


@pytest.mark.parametrize(
    "hook",
    [
        *("options_class", "describe_module", "module_edges"),
        *("rng_prefix", "param_mappings", "preview_samples"),
    ],
)
@pytest.mark.parametrize("deed", ["raise", "number"])
def test_a_fault_of_a_hook_that_plans_is_told_by_the_plan(
    crowd: Overlay, hook: str, deed: str
) -> None:
    data = ["data.plugin=stubborn"] if hook == "preview_samples" else []
    if hook == "param_mappings":
        data = ["modules.language.pretrained_weights=some/directory"]
    if hook == "module_edges":
        # The language model is not asked for edges.
        data = ["modules.eye.plugin=stubborn", "modules.eye.options.pattern=M"]
    done = crowd.run("mimo", "plan", "stubborn.yaml", *data, FAULT=f"{hook} {deed}", **FEW)
    assert done.returncode == 2
    assert f"{STUBBORN_TITLE}{hook!r}" in done.stderr, done.stderr
    assert SAID[deed] in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "fault",
    ["build_submodule raise", "build_submodule none", "provide_batch number", "provide_batch exit"],
)
def test_a_fault_of_a_hook_on_ranks_ends_all_of_them(crowd: Overlay, fault: str) -> None:
    hook, deed = fault.split()
    folder = fault.replace(" ", "-")
    done = crowd.run(
        "mimo-pretrain", "stubborn.yaml", "--run-dir", folder, timeout=1800, FAULT=fault, **FEW
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{STUBBORN_TITLE}{hook!r} for module 'language', {SAID[deed]}" in done.stderr
    assert "training 1/" not in done.stdout


def test_a_dataset_that_is_none_ends_all_ranks(crowd: Overlay) -> None:
    overrides = ("data.plugin=stubborn", "modules.language.plugin=nemotron")
    done = crowd.run(
        *("mimo-pretrain", "stubborn.yaml", *overrides, "--run-dir", "dataset"),
        timeout=1800,
        FAULT="build_dataset number",
        **FEW,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{STUBBORN_TITLE}'build_dataset', gave 17 (int), not a Dataset" in done.stderr


def test_two_plugins_that_could_answer_are_never_both_asked(crowd: Overlay) -> None:
    """Each is a whole language model; the recipe's own is asked, and the other not imported into
    its answers."""
    planned = crowd.run("mimo", "plan", "recipe.yaml", FAULT="describe raise", **FEW)
    assert planned.returncode == 0, planned.stderr


SWITCHES = {
    "allow list": ({"MIMO_PLUGINS": "nemotron,words"}, [], {"nemotron", "words"}),
    "deny list": ({}, ["--no-plugin", "talking"], {"talking"}),
    "autoload off": ({"MIMO_DISABLE_PLUGIN_AUTOLOAD": "1"}, [], set()),
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_switches_hold_plugins_back_before_they_are_imported(crowd: Overlay, switch: str) -> None:
    environ, flags, named = SWITCHES[switch]
    done = crowd.run("mimo", "plugins", "list", "--json", *flags, **environ)
    assert done.returncode == 0, done.stderr
    states = {record["name"]: record["state"] for record in json.loads(done.stdout)}
    if switch == "deny list":
        assert states["talking"] == "disabled"
        assert states["words"] == "usable"
    else:
        assert {name for name, state in states.items() if state != "disabled"} == named
    refused = crowd.run("mimo", "plan", "recipe.yaml", "data.plugin=talking", *flags, **environ)
    assert refused.returncode == 2
    assert "plugin 'talking' (mimo-plugin-talking 1.0) is disabled: " in refused.stderr


def test_a_name_that_two_distributions_give_stops_everything_and_names_both(
    tmp_path: Path, wheels: dict[str, Path]
) -> None:
    """The second takes the name of a bundled plugin."""
    thief = small_wheel(tmp_path, "digits", WORDS, distribution="other-digits")
    overlay = Overlay.make(tmp_path / "twice", [*wheels.values(), thief])
    for command in (("mimo", "plugins", "list"), ("mimo", "plan", "demo"), ("mimo-pretrain",)):
        done = overlay.run(*command)
        assert done.returncode == 2
        assert done.stderr.startswith("two plugins are named 'digits': one from distribution ")
        assert "'mimo-plugin-digits' (mimo_plugin_digits.plugin)" in done.stderr
        assert "'other-digits' (other_digits)" in done.stderr
        assert "pip uninstall other-digits" in done.stderr
    doctor = overlay.run("mimo", "doctor")
    assert doctor.returncode == 1
    assert "two plugins are named 'digits'" in " ".join(doctor.stdout.split())
    overlay.uninstall("mimo-plugin-digits")
    assert overlay.run("mimo", "plugins", "list").returncode == 0


def test_ranks_with_other_plugins_end_at_once_and_name_both_sides(
    crowd: Overlay, tmp_path: Path, wheels: dict[str, Path]
) -> None:
    """A rank on another machine: one plugin is absent there, one of another version."""
    there = {name: code for name, code in INSTALLED.items() if name != "stubborn"}
    versions = {"words": "1.1"}
    others = [
        small_wheel(tmp_path, name, code, version=versions.get(name, "1.0"))
        for name, code in there.items()
    ]
    machine = Overlay.make(tmp_path / "machine", [*wheels.values(), *others])
    (machine.work / "recipe.yaml").write_text(RECIPE)
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    folder = tmp_path / "run"
    ranks = []
    for rank, overlay in enumerate((crowd, machine)):
        environ = os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        environ.pop("PYTHONPATH", None)
        command = [overlay.folder / "env" / "bin" / "mimo-pretrain", "recipe.yaml"]
        ranks.append(
            subprocess.Popen(
                [*command, "--run-dir", folder],
                cwd=overlay.work,
                env=environ,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        said = [process.communicate(timeout=1800)[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert [process.returncode for process in ranks] == [1, 1], said
    told = " ".join("".join(said).split())
    assert "[launch.other-plugins]" in told, said
    assert "plugin 'words': mimo-plugin-words 1.0 on rank 0" in told
    assert "mimo-plugin-words 1.1 on rank 1" in told
    assert "plugin 'stubborn': mimo-plugin-stubborn 1.0 on rank 0" in told
    assert "not installed on rank 1" in told
