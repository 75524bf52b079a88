"""Commands that write check the place first: a wrong one is refused before inputs are read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ..helpers.paths import RECIPES

_MAIN = """
import sys
from {module} import main
try:
    main()
finally:
    print("torch" in sys.modules)
"""
"""Runs a command, and prints whether it has imported torch."""

COMMANDS = {
    "export": ("mimo_core.cli.mimo", "export", "gone", "full", "export.exists"),
    "export to its source": ("mimo_core.cli.mimo", "export", "full", "full", "export.exists"),
    "verify": (
        *("mimo_core.cli.mimo", "verify", "gone.yaml", "--run-dir", "full"),
        "verify.folder-not-empty",
    ),
    "plugins new": (
        *("mimo_core.cli.mimo", "plugins", "new", "fine", "--kind", "encoder"),
        *("--directory", "full", "scaffold.folder-not-empty"),
    ),
    "pretrain": (
        *("mimo_core.cli.pretrain", "gone.yaml", "--run-dir", "full/file"),
        "run.unusable-folder",
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_output_is_refused_before_inputs_are_read(tmp_path: Path, command: str) -> None:
    """Every command that makes a folder: the inputs do not even exist here."""
    module, *words, code = COMMANDS[command]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    done = subprocess.run(
        [sys.executable, "-c", _MAIN.format(module=module), *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.rstrip().endswith(f"[{code}]"), done.stderr
    assert done.stdout.split() == ["False"]
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "file"]


def test_export_refuses_what_it_imitates_before_the_checkpoint_is_read(tmp_path: Path) -> None:
    words = ("export", RECIPES, tmp_path / "out", "--like", tmp_path / "gone")
    done = subprocess.run(
        [sys.executable, "-c", _MAIN.format(module="mimo_core.cli.mimo"), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert str(tmp_path / "gone") in done.stderr
    assert done.stdout.split() == ["False"]
