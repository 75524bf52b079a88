"""Runs by the real command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs

from .paths import PLUGINS, RECIPES

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
    path = RECIPES / f"{recipe}.yaml" if isinstance(recipe, str) else recipe
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
    shutil.copy(PLUGINS / f"{name}_plugin.py", site)
    info = site / f"{name}_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mimo.plugins]\n{name} = {name}_plugin\n")
    return site


def wrapping(name: str, *modules: str) -> list[str]:
    """Overrides by which a plugin wraps these modules of the recipe, both by default."""
    return [f"modules.{one}.wrappers.{name}={{}}" for one in modules or ("vision", "language")]
