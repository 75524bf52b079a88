"""``examples/third_party``: a stranger's plugin, built, installed and used as users get it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from ..helpers.overlay import Overlay, build_wheels
from ..helpers.paths import ROOT

EXAMPLE = ROOT / "examples" / "third_party" / "mimo-plugin-mixer"


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory, wheels: dict[str, Path]) -> Overlay:
    """Its wheel beside those of the core and of the plugins that its recipe names."""
    own = build_wheels([EXAMPLE], tmp_path_factory.mktemp("own"))
    made = Overlay.make(tmp_path_factory.mktemp("overlay"), [*wheels.values(), *own.values()])
    shutil.copy(EXAMPLE / "recipe.yaml", made.work)
    shutil.copytree(EXAMPLE / "tests", made.work / "tests")
    return made


def _said(overlay: Overlay, program: str, *arguments: str | Path) -> str:
    done = overlay.run(program, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_is_imported_is_what_was_installed(overlay: Overlay) -> None:
    """Nothing of the checkout, whatever the tests' own environment has of it."""
    code = (
        "import mimo_core, mimo_plugin_mixer as m; print(mimo_core.__file__, m.__file__, sep='|')"
    )
    for file in _said(overlay, "python", "-c", code).strip().split("|"):
        assert Path(file).is_relative_to(overlay.site)


def test_the_host_lists_it_beside_those_of_others(overlay: Overlay) -> None:
    listed = json.loads(_said(overlay, "mimo", "plugins", "list", "--json"))
    found = {plugin["name"]: plugin for plugin in listed}
    assert set(found) == {"digits", "mixer", "nemotron"}
    assert {plugin["state"] for plugin in found.values()} == {"usable"}
    assert (found["mixer"]["distribution"], found["mixer"]["version"]) == (
        "mimo-plugin-mixer",
        "1.3.0",
    )


def test_it_is_planned(overlay: Overlay) -> None:
    plan = _said(overlay, "mimo", "plan", "recipe.yaml", "modules.vision.grid.dp=2")
    assert re.search(r"vision\W+mixer", plan)


def test_what_it_cannot_do_is_refused_in_its_own_words(overlay: Overlay) -> None:
    done = overlay.run("mimo", "plan", "recipe.yaml", "modules.vision.grid.tp=2")
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "plugin 'mixer' does not support tp 2: its layers mix all patches of a picture" in said


@pytest.mark.long
def test_a_run_of_two_ranks_learns_with_it(overlay: Overlay) -> None:
    _said(overlay, "mimo-pretrain", "recipe.yaml", "--run-dir", "run")
    summary = json.loads((overlay.work / "run" / "summary.json").read_text())
    losses = [row["loss"] for row in summary["iterations"]]
    assert len(losses) == 30
    assert losses[-1] < losses[0] / 2


@pytest.mark.long
def test_its_own_tests_pass_on_the_installed_wheel(overlay: Overlay) -> None:
    """The kit that comes in the core's wheel among them."""
    said = _said(overlay, "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None
    assert int(passed[1]) > 20
    assert "failed" not in said
