"""Text files and the output of commands are UTF-8 in every locale."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..helpers.paths import ROOT

FOLDERS = ("mimo_core", "mimo_plugins", "benchmarks", "examples")
OPENS = {"open", "fdopen", "read_text", "write_text", "NamedTemporaryFile"}
COMMANDS = {"run", "Popen", "check_output", "check_call"}
NO_TEXT = {"os.open", "wave.open", "gzip.open", "Image.open", "meeting.open"}
"""They open no text: a descriptor, formats of bytes, a place where ranks meet."""


def without_encoding(source: str) -> Iterator[str]:
    """Calls that read or write text in the encoding of the locale."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or ast.unparse(node.func) in NO_TEXT:
            continue
        name = ast.unparse(node.func).rpartition(".")[2]
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        if "encoding" in keywords:
            continue
        text = name in COMMANDS and {"text", "universal_newlines"} & keywords.keys()
        if name in OPENS and (node.args or name != "open" or isinstance(node.func, ast.Name)):
            modes = [*node.args, *filter(None, [keywords.get("mode")])]
            text = not any(_is_binary(mode) for mode in modes)
        if text:
            yield f"{node.lineno}: {ast.unparse(node)}"


def _is_binary(mode: ast.expr) -> bool:
    value = mode.value if isinstance(mode, ast.Constant) else None
    return isinstance(value, str) and "b" in value and set(value) <= set("rwaxb+")


def sources() -> list[Path]:
    found = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return sorted(path for path in found if "tests" not in path.relative_to(ROOT).parts)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("path.read_text()", 1),
        ("path.write_text(text)", 1),
        ("open(path)", 1),
        ("path.open('w')", 1),
        ("os.fdopen(place, 'r+')", 1),
        ("subprocess.run(command, text=True)", 1),
        ("path.read_text(encoding='utf-8')", 0),
        ("path.open('rb')", 0),
        ("open(path, mode='wb')", 0),
        ("os.open(path, 0)", 0),
        ("subprocess.run(command)", 0),
    ],
)
def test_calls_that_follow_the_locale_are_found(source: str, found: int) -> None:
    assert len(list(without_encoding(source))) == found


def test_no_text_follows_the_locale() -> None:
    found = {
        str(path.relative_to(ROOT)): calls
        for path in sources()
        if (calls := list(without_encoding(path.read_text(encoding="utf-8"))))
    }
    assert not found, f"give these calls an encoding: {found}"
