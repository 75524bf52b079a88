"""Fixtures of all folders of tests: runs that are started once a session, fake distributions."""

from __future__ import annotations

import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

from .helpers.overlay import build_wheels
from .helpers.paths import ROOT
from .helpers.runs import Run, installed, start


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
