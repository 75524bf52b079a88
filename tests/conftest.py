"""Runs by the real command, shared between tests: each is started once a session."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import attrs
import pytest

from .overlay import ROOT, build_wheels

HERE = Path(__file__).parent
TIMEOUT = 1800.0
"""Seconds for a run that takes some on an idle machine: a bound for one that does not end."""


@attrs.frozen(kw_only=True)
class Run:
    """A run that has ended."""

    folder: Path
    code: int
    screen: str
    errors: str

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.folder / "summary.json").read_text())  # type: ignore[no-any-return]

    @property
    def losses(self) -> list[float]:
        return [row["loss"] for row in self.summary["iterations"]]

    @property
    def norms(self) -> list[float]:
        return [row["gradient_norm"] for row in self.summary["iterations"]]

    def log(self, rank: int) -> str:
        return (self.folder / "logs" / f"rank-{rank}.log").read_text(errors="replace")


def command(recipe: str | Path, *overrides: str, folder: Path) -> list[str]:
    """The command line of a run; ``recipe`` names a file in ``tests/recipes``, or is one."""
    path = HERE / "recipes" / f"{recipe}.yaml" if isinstance(recipe, str) else recipe
    start = [sys.executable, "-m", "mimo_core.cli.pretrain", str(path), *overrides]
    return [*start, "--run-dir", str(folder)]


def start(recipe: str | Path, *overrides: str, folder: Path, site: Path | None = None) -> Run:
    """Start a run by the command and wait for its end."""
    environ = {**os.environ, "COLUMNS": "120"}
    if site is not None:
        environ["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(site), environ.get("PYTHONPATH")])
        )
    process = subprocess.run(
        command(recipe, *overrides, folder=folder),
        env=environ,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    return Run(folder=folder, code=process.returncode, screen=process.stdout, errors=process.stderr)


def installed(name: str, site: Path) -> Path:
    """``plugins/NAME_plugin.py`` in a folder for ``PYTHONPATH``, as pip would lay it out."""
    shutil.copy(HERE / "plugins" / f"{name}_plugin.py", site)
    info = site / f"{name}_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mimo.plugins]\n{name} = {name}_plugin\n")
    return site


def wrapping(name: str, *modules: str) -> list[str]:
    """Overrides by which a plugin wraps these modules of the recipe, both by default."""
    return [f"modules.{one}.wrappers.{name}={{}}" for one in modules or ("vision", "language")]


@pytest.fixture(scope="session")
def words_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the ``words`` plugin installed."""
    return installed("words", tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The tiny recipe on two ranks, from beginning to end."""
    run = start("tiny", folder=tmp_path_factory.mktemp("tiny") / "run")
    assert run.code == 0, run.screen + run.errors
    return run


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes fake distributions that ``importlib.metadata`` finds; no other is seen."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in ("MIMO_PLUGINS", "MIMO_DISABLE_PLUGIN_AUTOLOAD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(
        "mimo_core.plugins.discovery.entry_points", lambda group: _local(tmp_path, group)
    )
    made: list[str] = []

    def write(name: str, code: str, distribution: str | None = None) -> None:
        distribution = distribution or f"mimo-plugin-{name}"
        module = f"fake_{distribution.replace('-', '_')}"
        made.append(module)
        (tmp_path / f"{module}.py").write_text(code)
        info = tmp_path / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2")
        (info / "entry_points.txt").write_text(f"[mimo.plugins]\n{name} = {module}\n")

    yield write
    for module in made:
        sys.modules.pop(module, None)


def _local(folder: Path, group: str):
    return [
        point
        for dist in distributions(path=[str(folder)])
        for point in dist.entry_points
        if point.group == group
    ]


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Wheels of the core and of what small recipes need, by distribution."""
    sources = [ROOT, *(ROOT / "mimo_plugins" / name for name in ("nemotron", "digits"))]
    return build_wheels(sources, tmp_path_factory.mktemp("wheels"))
