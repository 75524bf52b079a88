"""``mimo plugins new``: what it writes is whole, and passes its own tests at once."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mimo_core.cli import mimo
from mimo_core.errors import PluginError
from mimo_core.plugins.discovery import GROUP
from mimo_core.scaffold import KINDS, write_plugin

from ..helpers.paths import ROOT
from ..helpers.problems import refused
from ..unit.test_public_surface import private_imports

LONGEST = "a" * 40
NAMES = {"encoder": "tiny-eye", "language": "b", "dataset": LONGEST, "wrapper": "r2-d2"}
"""Short and long ones: lines may not grow too long, nor be so short that they should be one."""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A distribution of each kind, below one folder."""
    top = tmp_path_factory.mktemp("plugins")
    return {
        kind: write_plugin(name, kind, top / f"mimo-plugin-{name}").folder
        for kind, name in NAMES.items()
    }


@pytest.fixture(scope="module")
def environ(written: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which all are installed."""
    site = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    how = ["--no-deps", "--no-index", "--no-build-isolation", "--target", str(site)]
    # From copies: a build leaves files beside what it builds.
    copies = [shutil.copytree(one, site / "from" / kind) for kind, one in written.items()]
    run([*pip, *how, *map(str, copies)], os.environ.copy())
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *filter(None, sys.path)])}


def run(command: list[str], environ: dict[str, str], **more: Any) -> str:
    """What a program prints, which must end well."""
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, check=False, timeout=1800, **more
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_there_is_one_of_each_kind() -> None:
    assert NAMES.keys() == KINDS.keys()


@pytest.mark.long
def test_each_passes_its_own_tests(written: dict[str, Path], environ: dict[str, str]) -> None:
    """All in one process, as the four of them share what starts slowly."""
    tests = [str(folder / "tests") for folder in written.values()]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--import-mode=importlib",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    said = run([*command, *tests], environ, cwd=written["encoder"].parent)
    assert "failed" not in said and "passed" in said


def test_each_is_listed_as_usable_and_for_nothing_to_mend(environ: dict[str, str]) -> None:
    listed = run([sys.executable, "-m", "mimo_core.cli.mimo", "plugins", "list", "--json"], environ)
    records = {record["name"]: record for record in json.loads(listed)}
    for name in NAMES.values():
        told = records[name]
        assert (told["state"], told["warnings"]) == ("usable", [])
        assert (told["distribution"], told["version"]) == (f"mimo-plugin-{name}", "0.1.0")


@pytest.mark.parametrize("kind", NAMES)
def test_its_recipe_can_be_planned(
    kind: str, written: dict[str, Path], environ: dict[str, str]
) -> None:
    command = [sys.executable, "-m", "mimo_core.cli.mimo", "plan", "recipe.yaml", "--json"]
    plan = json.loads(run(command, environ, cwd=written[kind]))
    assert NAMES[kind] in json.dumps([plan["modules"], plan["data"]])


def test_linters_have_nothing_to_say(written: dict[str, Path]) -> None:
    """By the plugins' own settings, which their CI uses."""
    folders = [str(folder) for folder in written.values()]
    for command in (["ruff", "check"], ["ruff", "format", "--check"]):
        run([sys.executable, "-m", *command, "--no-cache", *folders], os.environ.copy())


@pytest.mark.long
def test_strict_types_have_nothing_to_say(written: dict[str, Path], tmp_path: Path) -> None:
    settings = str(written["encoder"] / "pyproject.toml")
    # As of an installed package, errors of the core itself are not reported.
    mypy = [sys.executable, "-m", "mypy", "--config-file", settings, "--follow-imports=silent"]
    mypy += ["--cache-dir", str(tmp_path)]
    packages = [str(next(folder.glob("mimo_plugin_*"))) for folder in written.values()]
    paths = os.pathsep.join([*map(str, written.values()), str(ROOT)])
    run([*mypy, *packages], {**os.environ, "MYPYPATH": paths})


def test_none_imports_what_is_not_public(written: dict[str, Path]) -> None:
    files = [path for folder in written.values() for path in folder.rglob("*.py")]
    assert len(files) > 20
    assert [(path.name, list(private_imports(path.read_text()))) for path in files] == [
        (path.name, []) for path in files
    ]


def test_no_word_of_a_template_is_left(written: dict[str, Path]) -> None:
    for folder in written.values():
        files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
        assert {".github/workflows/test.yml", "LICENSE", "README.md", ".gitignore"} <= {
            str(path.relative_to(folder)) for path in files
        }
        for path in files:
            assert "@name@" not in path.read_text() and ".tmpl" not in path.name
            if path.suffix == ".py":
                ast.parse(path.read_text())


@pytest.mark.parametrize(
    ("name", "code", "fact"),
    [
        ("Tiny_Eye", "scaffold.invalid-name", "Did you mean 'tiny-eye'?"),
        ("mimo-plugin-eye", "scaffold.invalid-name", "Did you mean 'eye'?"),
        ("tiny--eye", "scaffold.invalid-name", "Did you mean 'tiny-eye'?"),
        ("3d-eye", "scaffold.invalid-name", "Did you mean 'd-eye'?"),
        ("äö", "scaffold.invalid-name", ""),
        ("a" * 41, "scaffold.invalid-name", "41"),
        ("radio", "scaffold.name-in-use", "mimo-plugin-radio 0.1.0"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused(
    name: str, code: str, fact: str, tmp_path: Path
) -> None:
    with refused(code, PluginError, name=name) as caught:
        write_plugin(name, "encoder", tmp_path / "new")
    assert fact in caught.value.text
    assert not (tmp_path / "new").exists()


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with refused("scaffold.folder-not-empty", PluginError, folder=str(tmp_path)):
        write_plugin("eye", "encoder", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_the_command_tells_what_to_do_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["mimo", "plugins", "new", "eye", "--kind", "encoder"])
    with pytest.raises(SystemExit) as ended:
        mimo.main()
    said = capsys.readouterr().out
    assert not ended.value.code
    assert "mimo_plugin_eye/plugin.py" in said and "cd mimo-plugin-eye" in said
    assert (
        f'entry-points."{GROUP}"' in (tmp_path / "mimo-plugin-eye" / "pyproject.toml").read_text()
    )


def test_an_unknown_kind_names_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["mimo", "plugins", "new", "eye", "--kind", "encodr"])
    with pytest.raises(SystemExit) as ended:
        mimo.main()
    assert ended.value.code == 2
    assert "Did you mean 'encoder'? Kinds: encoder, language" in capsys.readouterr().err
