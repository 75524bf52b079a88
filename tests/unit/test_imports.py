"""Layers: what may import what, read from the source, and seen in a fresh process."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..helpers.paths import ROOT

CORE = ROOT / "mimo_core"
PURE = (
    "__init__.py",
    "contract.py",
    "errors",
    "utils",
    "plugins",
    "recipe",
    "tokenizer",
    "planning",
    "scaffold",
    "doctor",
    "checkpoint/__init__.py",
    "checkpoint/checksums.py",
    "checkpoint/compatibility.py",
    "checkpoint/directory.py",
    "weights/frozen_sources.py",
    "weights/integrity.py",
    "checkpoint/keys.py",
    "checkpoint/manifest.py",
    "checkpoint/resume_changes.py",
    "weights/__init__.py",
    "weights/checkpoint_fit.py",
    "weights/compare.py",
    "weights/export_place.py",
    "weights/pretrained.py",
    "weights/safetensors_dir.py",
    "weights/warm_start.py",
    "launch/preflight.py",
    "launch/rank_env.py",
    "cli/__init__.py",
    "cli/doctor.py",
    "cli/mimo.py",
    "cli/options.py",
    "cli/plugins.py",
    "reporting/header.py",
    "reporting/tables.py",
    "reporting/run_directory.py",
    "profile/breakdown.py",
    "profile/chrome_trace.py",
    "profile/clock_sync.py",
    "profile/spans.py",
    "profile/table.py",
)
HEAVY = {"torch", "megatron", "numpy", "transformers", "matplotlib"}


def sources(*names: str) -> list[Path]:
    found = []
    for name in names:
        path = CORE / name
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return found


def imports(tree: ast.AST, *, nested: bool) -> Iterator[str]:
    """Modules imported at run time; inside functions only if ``nested``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue
        elif nested or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports(node, nested=nested)


def test_the_reader_of_imports_sees_what_it_should():
    tree = ast.parse(
        "import a.b\nfrom c import d\nif TYPE_CHECKING:\n    import no\n"
        "try:\n    import e\nfinally: pass\ndef f():\n    import g\n"
    )
    assert list(imports(tree, nested=False)) == ["a.b", "c", "e"]
    assert list(imports(tree, nested=True)) == ["a.b", "c", "e", "g"]


@pytest.mark.parametrize("path", sources(*PURE), ids=lambda path: str(path.relative_to(CORE)))
def test_pure_layers_import_neither_torch_nor_megatron(path: Path):
    found = {name.partition(".")[0] for name in imports(ast.parse(path.read_text()), nested=True)}
    assert not found & HEAVY


@pytest.mark.parametrize("name", ["bridge", "routing"])
def test_the_bridge_needs_no_megatron(name: str):
    path = CORE / "distributed" / f"{name}.py"
    found = {found.partition(".")[0] for found in imports(ast.parse(path.read_text()), nested=True)}
    assert "megatron" not in found


def test_the_core_imports_no_plugin():
    for path in CORE.rglob("*.py"):
        for name in imports(ast.parse(path.read_text()), nested=True):
            assert not name.startswith(("mimo_plugin_", "mimo_plugins")), path


def test_a_fresh_process_that_plans_has_loaded_nothing_heavy():
    code = (
        "import sys, mimo_core, mimo_core.planning.plan, mimo_core.cli.mimo\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CORE.parent
    )
    loaded = set(done.stdout.split())
    assert "mimo_core" in loaded
    assert not loaded & HEAVY


LAYERS = (
    ("contract", "errors"),
    ("utils",),
    ("tokenizer", "plugins", "platforms"),
    ("recipe", "scaffold"),
    ("planning",),
    ("reporting", "doctor"),
    ("checkpoint",),
    ("weights", "profile"),
    ("data", "megatron_patches"),
    ("distributed",),
    ("model",),
    ("optimizer", "building"),
    ("train",),
    ("launch",),
    ("api", "testing"),
    ("verify",),
    ("cli",),
)
"""From the lowest up: each package imports from those of lower layers only."""


def test_imports_go_downwards():
    """Inside functions too: an import there may wait, but goes no other way."""
    height = {name: at for at, names in enumerate(LAYERS) for name in names}
    upward = []
    for path in sorted(CORE.rglob("*.py")):
        place = path.relative_to(CORE).with_suffix("").parts[0]
        if place == "__init__":
            continue
        for name in imports(ast.parse(path.read_text()), nested=True):
            package, _, rest = name.partition(".")
            if package != "mimo_core" or not rest:
                continue
            target = rest.split(".")[0]
            if target != place and height[target] >= height[place]:
                upward.append(f"{path.relative_to(CORE)} imports {name}")
    assert upward == []
