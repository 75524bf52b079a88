"""Layers: what may import what, read from the source, and seen in a fresh process."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CORE = Path(__file__).parents[1] / "mimo_core"
PURE = (
    "__init__.py",
    "contract.py",
    "weight_map.py",
    "hookspecs.py",
    "environment.py",
    "error_codes.py",
    "error_reference.py",
    "errors.py",
    "files.py",
    "json_types.py",
    "config_keys.py",
    "checkpoints.py",
    "checksums.py",
    "durable.py",
    "manifest.py",
    "plugins",
    "recipe",
    "graph.py",
    "star.py",
    "tokenizer",
    "layout.py",
    "memory.py",
    "work.py",
    "previewed.py",
    "sources.py",
    "validate.py",
    "plan.py",
    "plugin_answers.py",
    "printable.py",
    "safe_console.py",
    "output.py",
    "regular_files.py",
    "surroundings.py",
    "weights/__init__.py",
    "weights/directory.py",
    "weights/integrity.py",
    "weights/keys.py",
    "weights/match.py",
    "weights/origins.py",
    "weights/beginning.py",
    "cli/__init__.py",
    "cli/mimo.py",
    "cli/options.py",
    "cli/plugins.py",
    "scaffold",
    "report/header.py",
    "cli/doctor.py",
    "doctor",
    "profile/spans.py",
    "profile/figures.py",
    "profile/chrome.py",
    "profile/clock.py",
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


@pytest.mark.parametrize("path", sources("plugins", "recipe"), ids=lambda path: path.name)
def test_plugins_and_recipe_do_not_reach_up(path: Path):
    above = {"graph", "star", "layout", "validate", "plan", "cli", "tokenizer"}
    found = set(imports(ast.parse(path.read_text()), nested=True))
    assert not {f"mimo_core.{name}" for name in above} & found


@pytest.mark.parametrize("name", ["bridge", "routes"])
def test_the_bridge_needs_no_megatron(name: str):
    path = CORE / "communicator" / f"{name}.py"
    found = {found.partition(".")[0] for found in imports(ast.parse(path.read_text()), nested=True)}
    assert "megatron" not in found


def test_the_core_imports_no_plugin():
    for path in CORE.rglob("*.py"):
        for name in imports(ast.parse(path.read_text()), nested=True):
            assert not name.startswith(("mimo_plugin_", "mimo_plugins")), path


def test_a_fresh_process_that_plans_has_loaded_nothing_heavy():
    code = (
        "import sys, mimo_core, mimo_core.plan, mimo_core.cli.mimo\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CORE.parent
    )
    loaded = set(done.stdout.split())
    assert "mimo_core" in loaded
    assert not loaded & HEAVY


LAYERS = (
    (
        *(
            "contract",
            "weight_map",
            "hookspecs",
            "errors",
            "error_codes",
            "error_reference",
            "rank",
            "run_folder",
        ),
        *("checksums", "durable"),
        *("termination", "tokenizer", "environment", "json_types", "printable"),
        *(
            "config_keys",
            "output",
            "safe_console",
            "surroundings",
            "files",
            "activity",
            "regular_files",
        ),
    ),
    ("plugins", "recipe", "layout"),
    ("manifest", "checkpoints"),
    (
        "graph",
        "star",
        "stock_settings",
        "validate",
        "memory",
        "work",
        "sources",
        "previewed",
        "plan",
        "weights",
        "plugin_answers",
    ),
    ("scaffold",),
    ("platforms", "data", "report", "profile"),
    ("nursery",),
    ("topology", "communicator", "rng"),
    ("model", "gradients", "optimizer"),
    ("building",),
    ("testing",),
    ("train",),
    ("launch",),
    ("api", "verify", "doctor"),
    ("cli",),
)
"""From the lowest up: each imports from its own layer and from those below."""


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
            if height[target] > height[place]:
                upward.append(f"{path.relative_to(CORE)} imports {name}")
    assert upward == []
