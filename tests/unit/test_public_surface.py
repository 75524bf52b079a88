"""What plugins stand on changes on purpose only, and plugins stand on nothing else."""

from __future__ import annotations

import ast
import difflib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..helpers.paths import HELPERS, ROOT
from ..helpers.public_surface import MODULES

PLUGINS = sorted((ROOT / "mimo_plugins").glob("*/mimo_plugin_*/**/*.py"))
STRANGERS = sorted((ROOT / "examples" / "third_party").glob("*/**/*.py"))


def test_the_public_surface_is_what_it_was() -> None:
    done = subprocess.run(
        [sys.executable, str(HELPERS / "public_surface.py")],
        env={**os.environ, "MIMO_PLATFORM": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    frozen = (HELPERS / "public_surface.txt").read_text()
    changes = "\n".join(
        difflib.unified_diff(frozen.splitlines(), done.stdout.splitlines(), n=0, lineterm="")
    )
    assert not changes, (
        f"what plugins may use has changed:\n{changes}\nIf that is meant: raise CONTRACT "
        "(docs/plugins/versioning.md says when), and run "
        "python tests/helpers/public_surface.py > tests/helpers/public_surface.txt"
    )


def private_imports(source: str) -> Iterator[str]:
    """What of the core a plugin's source imports that is not public."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
            if node.module == "mimo_core":
                names = [f"mimo_core.{alias.name}" for alias in node.names]
                names = [name for name in names if name in MODULES or not _public(name)]
        else:
            continue
        yield from (
            name for name in names if name.split(".")[0] == "mimo_core" and name not in MODULES
        )


def _public(name: str) -> bool:
    import mimo_core

    return name.removeprefix("mimo_core.") in mimo_core.__all__


def test_the_reader_of_imports_sees_what_it_should() -> None:
    source = (
        "import mimo_core, mimo_core.planning.model_graph\n"
        "from mimo_core import MediaItem, planning\n"
        "from mimo_core.building import x\ndef f():\n    from mimo_core.model.config import y\n"
    )
    assert list(private_imports(source)) == [
        "mimo_core.planning.model_graph",
        "mimo_core.planning",
        "mimo_core.model.config",
    ]


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_bundled_plugins_use_nothing_private(path: Path) -> None:
    """A stranger's plugin can do all that ours can."""
    assert list(private_imports(path.read_text())) == []


@pytest.mark.parametrize("path", STRANGERS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_example_of_a_stranger_uses_nothing_private(path: Path) -> None:
    """Its tests too."""
    assert list(private_imports(path.read_text())) == []
