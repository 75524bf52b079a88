"""No test fails by time on a loaded machine: what bounds a wait is minutes long."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from ..helpers.paths import ROOT

LEAST = 600
"""Seconds; the slowest wait takes about 20 on two idle cores, and a load of 20 makes it 10 times
longer."""
SHORT = {
    (
        "tests/integration/test_heartbeat.py",
        "timeout",
    ): "a limit under test, by a set clock",
    ("tests/unit/test_supervisor.py", "timeout"): "ranks that do not appear: the subject",
    (
        "tests/unit/test_supervisor.py",
        "settimeout",
    ): "nothing is sent: a longer wait sees no more",
}
"""Waits that have to run out, each with the reason."""


def waits(file: Path) -> Iterator[tuple[str, int, float]]:
    """Name, line and seconds of every bound of a wait that is a number."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "timeout":
            values, name = [node.value], "timeout"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name, values = node.func.attr, node.args
            if name not in ("wait", "join", "settimeout") or len(values) != 1:
                continue
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            if "time.monotonic()" not in ast.unparse(node.left):
                continue
            values, name = [node.right], "deadline"
        else:
            continue
        for value in values:
            if isinstance(value, ast.Constant) and isinstance(value.value, int | float):
                yield name, value.lineno, value.value


def test_bounds_of_waits_are_minutes() -> None:
    files = [*(ROOT / "tests").rglob("*.py"), *ROOT.glob("mimo_plugins/*/tests/*.py")]
    short = [
        f"{place}:{line}: {name} {seconds}"
        for file in files
        for name, line, seconds in waits(file)
        if seconds < LEAST and ((place := str(file.relative_to(ROOT))), name) not in SHORT
    ]
    assert not short, short
