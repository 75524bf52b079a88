"""The kit on installed plugins: by the command, and as an author's tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from mimo_core.cli.mimo import app

from .conftest import installed

HERE = Path(__file__).parent


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
        command, env=environ, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1, done.stderr
    told = {one["check"]: one for one in json.loads(done.stdout)}
    listing = said(told["listing imports nothing heavy"])
    assert "imports transformer_engine (at " in listing
    assert "prints when it is imported ('hello')" in listing
    planning = said(told["planning needs no torch"])
    assert "hook 'preview' of 'heavy' loads mamba_ssm" in planning
    order = said(told["every process gets the same samples"])
    assert "two processes read other samples: sample 0 of train of 'heavy' is" in order
    assert "sort, or draw from data.seed" in order
    assert told["hooks and signatures"]["status"] == "passed"


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
        assert self.plugin.preview

class TestFaulty(Conformance):
    plugin = encoder(rng_prefix=None)
    kind = "encoder"
"""


def test_a_class_is_a_test_for_each_expectation(tmp_path: Path) -> None:
    """What is not declared is skipped by name; what cannot be planned starts no ranks."""
    file = tmp_path / "test_conformance.py"
    file.write_text(f"import sys\nsys.path.insert(0, {str(HERE / 'kit')!r})\n{TESTS}")
    command = [sys.executable, "-m", "pytest", "-v", "-rs", "-p", "no:cacheprovider", str(file)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60
    )
    assert "TestGood::test_the_preview_shows_the_longest PASSED" in done.stdout
    assert "TestGood::test_samples_are_samples PASSED" in done.stdout
    assert "options: the plugin has no hook options()" in done.stdout
    assert "TestFaulty::test_tp_2_is_as_tp_1 FAILED" in done.stdout
    assert "does not implement rng_prefix" in done.stdout
    assert "  to do: write these hooks" in done.stdout
    assert "Traceback" not in done.stdout
