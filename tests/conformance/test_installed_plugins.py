"""The kit on installed plugins: by the command, and as an author's tests."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import wave
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from mimo_core.cli.check import check_plugin
from mimo_core.cli.mimo import app
from mimo_core.errors import MimoError
from mimo_core.testing.checks import CHECKS
from mimo_core.testing.conformance_case import Kind
from mimo_core.testing.fixtures import REQUIRED, _candidates, host_of, kinds_of
from mimo_core.testing.stub_plugins import partners

from ..helpers.paths import BROKEN_PLUGINS, ROOT
from ..helpers.runs import installed

sys.path.insert(0, str(BROKEN_PLUGINS))
import good_plugins as good

BUNDLED = sorted(
    folder.name.replace("_", "-")
    for folder in (ROOT / "mimo_plugins").iterdir()
    if (folder / "pyproject.toml").exists()
)


def check(*words: str) -> tuple[int, dict[str, Any]]:
    """Exit status of ``mimo plugins check --json``, and what it says by check."""
    done = CliRunner().invoke(app, ["plugins", "check", *words, "--json"])
    return done.exit_code, {one["check"]: one for one in json.loads(done.output)}


def said(told: dict[str, Any]) -> str:
    return "\n".join(f"{one['said']} -> {one['fix']}" for one in told["findings"])


def test_the_command_finds_what_a_fresh_process_shows(tmp_path: Path) -> None:
    site = installed("heavy", tmp_path)
    for heavy in ("transformer_engine", "mamba_ssm"):
        (site / f"{heavy}.py").touch()
    environ = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    }
    command = [sys.executable, "-m", "mimo_core.cli.mimo", "plugins", "check", "heavy", "--json"]
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, check=False, timeout=1800
    )
    assert done.returncode == 1, done.stderr
    told = {one["check"]: one for one in json.loads(done.stdout)}
    listing = said(told["listing imports nothing heavy"])
    assert "imports transformer_engine (at " in listing
    assert "prints when it is imported ('hello')" in listing
    planning = said(told["planning needs no torch"])
    assert "hook 'preview_samples' of 'heavy' loads mamba_ssm" in planning
    order = said(told["every process gets the same samples"])
    assert "two processes read other samples: sample 0 of train of 'heavy' is" in order
    assert "sort, or draw from data.seed" in order
    answers = said(told["every rank gets the same answers"])
    assert "data (plugin 'heavy'), hook 'preview_samples', text of sample " in answers
    assert "on rank 0, " in answers
    assert told["hooks and signatures"]["status"] == "passed"


@pytest.mark.parametrize("option", ["image_size=abc", "imagesize=3"])
def test_an_option_that_is_refused_is_told_once(option: str) -> None:
    code, told = check("radio", "hidden_size=16", "layers=1", "heads=2", option)
    assert code == 1
    failed = [title for title, one in told.items() if one["status"] == "failed"]
    assert failed == ["options come back from yaml"]
    assert option.partition("=")[0] in said(told[failed[0]])
    why = told["the description is sound"]["why"]
    assert why == "needs options that fit; see 'options come back from yaml'"


@pytest.mark.parametrize("option", ["layers=[1", "layers=1 layers.deep=2"])
def test_an_option_that_cannot_be_read_is_a_mistake(option: str) -> None:
    with pytest.raises(MimoError, match="layers"):
        list(check_plugin("radio", option.split()))


FORGOTTEN = [("encoder", hook) for hook in REQUIRED["encoder"] if hook != "module_edges"] + [
    ("language", hook) for hook in REQUIRED["language"]
]


def installed_as(plugin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """``mine`` is an installed plugin, which needs no process of its own to be looked at."""
    (mine,) = (one for one in _candidates([plugin]) if one.name == "mine")
    monkeypatch.setattr("mimo_core.plugins.discovery.candidates", lambda *_given: (mine,))
    here = [one for one in CHECKS if not one.place.startswith("isolated_import:")]
    monkeypatch.setattr("mimo_core.testing.checks.CHECKS", here)


@pytest.mark.parametrize(("kind", "hook"), FORGOTTEN)
def test_a_forgotten_hook_is_named_first_and_once(
    kind: Kind, hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = good.encoder() if kind == "encoder" else partners()["conformance-language"]
    hooks = {name: made for name, made in vars(whole).items() if name != hook}
    installed_as(SimpleNamespace(**hooks | {"__name__": "mine"}), monkeypatch)
    code, told = check("mine", "hidden_size=16")
    assert code == 1
    first = next(iter(told))
    assert [title for title, one in told.items() if one["status"] == "failed"] == [first]
    due = f"lacks hook {hook}; it is checked as kind {kind!r}, which needs "
    assert due + ", ".join(REQUIRED[kind]) in said(told[first])
    assert told["the description is sound"]["why"] == f"needs what is missing: hook {hook}"


def test_an_encoder_without_edges_is_told_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its hooks it is a language model."""
    hooks = {name: made for name, made in vars(good.encoder()).items() if name != "module_edges"}
    installed_as(SimpleNamespace(**hooks | {"__name__": "mine"}), monkeypatch)
    code, told = check("mine", "hidden_size=16")
    assert code == 1
    why = told["hooks and signatures"]["why"]
    assert why == "as a language model; an encoder needs hook module_edges besides"


def test_the_command_asks_for_options_that_have_no_defaults() -> None:
    code, told = check("radio")
    assert code == 0
    why = told["options come back from yaml"]["why"]
    assert "mimo plugins check radio KEY=VALUE" in why and "hidden_size, layers, heads" in why
    assert told["listing imports nothing heavy"]["status"] == "passed"

    code, told = check("radio", "hidden_size=16", "layers=1", "heads=2", "patch_size=4")
    assert code == 0
    assert {one["status"] for one in told.values()} == {"passed"}
    code, told = check("radio", "hidden_size=16", "layers=1", "heads=3")
    assert code == 1
    assert "hidden_size=16, heads=3" in said(told["options come back from yaml"])


SIZES = ("hidden_size=16", "layers=1", "heads=2")
TINY = {"radio": (*SIZES, "patch_size=4"), "whisper": SIZES}
"""Options of those that have no defaults and need no files."""


def recordings(folder: Path) -> Path:
    """A tone for each digit; those that spoken-digits takes by default need not be here."""
    for digit in range(10):
        with wave.open(str(folder / f"{digit}.wav"), "wb") as file:
            file.setparams((1, 2, 8_000, 0, "NONE", ""))
            file.writeframes(struct.pack("<8h", *(4 * [20_000] + 4 * [-20_000])) * 200)
    return folder


@pytest.mark.parametrize("plugin", BUNDLED)
def test_the_command_finds_nothing_wrong_with_our_own(
    plugin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a process for each: the tests of each plugin have that."""
    given = TINY.get(plugin, ())
    if plugin == "spoken-digits":
        given = (f"voices=[{recordings(tmp_path)}]",)
    here = [one for one in CHECKS if not one.place.startswith("isolated_import:")]
    monkeypatch.setattr("mimo_core.testing.checks.CHECKS", here)
    code, told = check(plugin, *given)
    assert code == 0, [said(one) for one in told.values()]
    if plugin in ("gpt", "nemotron", *TINY):
        assert told["the description is sound"]["status"] == "passed"


def test_what_a_plugin_is_checked_as_is_told_or_asked() -> None:
    code, told = check("gpt", "--kind", "encoder")
    assert code == 1
    assert "lacks hook module_edges" in said(told["hooks and signatures"])
    done = CliRunner().invoke(app, ["plugins", "check", "gpt", "--kind", "langage"])
    assert "Did you mean 'language'?" in str(done.exception)


def test_hooks_for_several_kinds_are_no_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    both = SimpleNamespace(**{**vars(good.encoder()), **vars(good.dataset()), "__name__": "both"})
    host = host_of([both])
    assert kinds_of(host, "both") == ("encoder", "dataset")
    monkeypatch.setattr("mimo_core.cli.check.host_of", lambda _plugins: host)
    done = CliRunner().invoke(app, ["plugins", "check", "both"])
    assert "check it once with each of --kind encoder, --kind dataset" in str(done.exception)


def test_the_command_names_what_is_installed() -> None:
    done = CliRunner().invoke(app, ["plugins", "check", "radios"])
    assert "Did you mean 'radio'?" in str(done.exception)


TESTS = """\
from good_plugins import dataset, encoder
from mimo_core.testing import Conformance

class TestGood(Conformance):
    plugin = dataset()
    kind = "dataset"

    def test_the_preview_shows_the_longest(self):
        assert self.plugin.preview_samples

class TestFaulty(Conformance):
    plugin = encoder(rng_prefix=None)
    kind = "encoder"
"""


def test_a_class_is_a_test_for_each_expectation(tmp_path: Path) -> None:
    """What is not declared is skipped by name; what cannot be planned starts no ranks."""
    file = tmp_path / "test_conformance.py"
    file.write_text(f"import sys\nsys.path.insert(0, {str(BROKEN_PLUGINS)!r})\n{TESTS}")
    command = [sys.executable, "-m", "pytest", "-v", "-rs", "-p", "no:cacheprovider", str(file)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=1800
    )
    assert "TestGood::test_the_preview_shows_the_longest PASSED" in done.stdout
    assert "TestGood::test_samples_are_samples PASSED" in done.stdout
    assert "options: the plugin has no hook options()" in done.stdout
    assert "TestFaulty::test_tp_2_is_as_tp_1 FAILED" in done.stdout
    assert "does not implement rng_prefix" in done.stdout
    assert "  to do: write rng_prefix" in done.stdout
    assert "Traceback" not in done.stdout
