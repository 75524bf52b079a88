"""Every error for users has a code that ``docs/reference/errors.md`` explains."""

from __future__ import annotations

import ast
import errno
import pickle
import re
from collections.abc import Collection
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from mimo_core.errors import (
    MimoError,
    Problem,
    RecipeError,
    code_of,
    problems_in,
    text_of,
    values_of,
)
from mimo_core.errors.codes import CODES
from mimo_core.errors.docgen import plugin_codes, reference
from mimo_core.utils.regular_files import UnreadableFile, open_regular

from ..helpers.paths import ROOT

CODE = re.compile(r"[a-z][a-z0-9_-]*\.[a-z][a-z0-9-]*")


AREAS = {code.partition(".")[0] for code in CODES}


def sources(folder: Path) -> list[Path]:
    """The Python files of a folder, without tests and lists of codes."""
    lists = (ROOT / "mimo_core" / "errors" / "codes.py", "error_codes.py")
    return [
        path
        for path in folder.rglob("*.py")
        if "tests" not in path.parts and path not in lists and path.name not in lists
    ]


def codes_in(folder: Path, areas: Collection[str] = AREAS) -> set[str]:
    """Texts of the source that have the form of a code and an area of one."""
    return {
        node.value
        for path in sources(folder)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if CODE.fullmatch(node.value) and node.value.partition(".")[0] in areas
    }


def given_codes(folder: Path) -> set[str]:
    """What errors and problems are made with, where the source says it."""
    return {
        node.value
        for path in sources(folder)
        for given in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(given, ast.keyword) and given.arg == "code"
        for node in ast.walk(given.value)
        if isinstance(node, ast.Constant) and CODE.fullmatch(str(node.value))
    }


def test_the_page_is_up_to_date() -> None:
    page = ROOT / "docs" / "reference" / "errors.md"
    assert page.read_text(encoding="utf-8") == reference(plugin_codes()), (
        "run: python -m mimo_core.errors.docgen > docs/reference/errors.md"
    )


def test_every_code_of_the_core_is_in_use_and_explained() -> None:
    core, benchmarks, plugins = (
        ROOT / name for name in ("mimo_core", "benchmarks", "mimo_plugins")
    )
    used = codes_in(core) | codes_in(benchmarks) | codes_in(plugins)
    assert CODES.keys() <= used, sorted(CODES.keys() - used)
    given = given_codes(core) | given_codes(benchmarks)
    assert given <= CODES.keys(), sorted(given - CODES.keys())


BUNDLED = {
    entry.name: ROOT / "mimo_plugins" / entry.name.replace("-", "_")
    for entry in entry_points(group="mimo.plugins")
    if (ROOT / "mimo_plugins" / entry.name.replace("-", "_")).is_dir()
}


@pytest.mark.parametrize("plugin", BUNDLED)
def test_every_code_of_a_plugin_is_in_use_and_explained(plugin: str) -> None:
    listed = plugin_codes().get(plugin, {})
    assert all(code.startswith(f"{plugin}.") for code in listed)
    assert codes_in(BUNDLED[plugin], [plugin]) == listed.keys()
    given = given_codes(BUNDLED[plugin])
    assert given <= {*listed, *CODES}, sorted(given - {*listed, *CODES})


def test_every_error_is_given_a_code() -> None:
    """Where mypy does not look, too."""
    trees = {
        path: ast.parse(path.read_text(encoding="utf-8"))
        for folder in ("mimo_core", "benchmarks", "mimo_plugins", "examples")
        for path in (ROOT / folder).rglob("*.py")
        if "tests" not in path.parts
    }
    classes = [
        node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    ]
    errors = {"MimoError"}
    while added := {one.name for one in classes if errors & {*map(_name, one.bases)}} - errors:
        errors |= added
    own = {
        one.name
        for one in classes
        if any(isinstance(each, ast.FunctionDef) and each.name == "__init__" for each in one.body)
    } - {"MimoError"}
    missing = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _name(node.func) in errors - own
        if not {"code", None} & {keyword.arg for keyword in node.keywords}
    ]
    assert {"SampleError", "CheckpointError"} <= errors and not missing, missing


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")


def test_every_code_has_a_cause_and_a_remedy() -> None:
    for codes in (CODES, *plugin_codes().values()):
        for code, explanation in codes.items():
            assert CODE.fullmatch(code), code
            assert all(text.endswith(".") and "|" not in text for text in explanation), code


def test_a_code_of_another_library_is_no_code() -> None:
    class HTTPError(Exception):
        code = 404

    assert code_of(HTTPError(), "sample.undecodable") == "sample.undecodable"
    error = MimoError("a", code="x.a", file="f")
    assert code_of(error, "") == "x.a"
    assert values_of(HTTPError()) == {} and values_of(error) == {"file": "f"}


def test_an_error_shows_its_code_behind_its_message_and_keeps_its_facts() -> None:
    error = MimoError("no such thing", ("data", 0), code="data.thing", thing=3)
    assert str(error) == "no such thing [data.thing]" and error.text == "no such thing"
    assert (error.code, error.path, error.values) == ("data.thing", ("data", 0), {"thing": 3})
    placed = Problem("a", "x.a", place="r.yaml:1: k")
    both = RecipeError.of([placed, Problem("b", "x.b")])
    assert str(both) == "r.yaml:1: k: a [x.a]\nb [x.b]"
    again = pickle.loads(pickle.dumps(both))
    assert type(again) is RecipeError and again.problems == both.problems


def test_the_problems_of_a_printed_error_are_read_from_it() -> None:
    first = Problem("a\nb [c]", "x.a-b", place="r.yaml:1: k")
    both = RecipeError.of([first, Problem("d", "hf-vision.y")])
    found = problems_in(f"{both}\nits log: e")
    assert [(problem.text, problem.code) for problem in found] == [
        (first.text, first.code),
        ("d\nits log: e", "hf-vision.y"),
    ]
    assert problems_in("a\nb") == [Problem("a\nb", "")]
    assert (text_of(both), text_of(KeyError("k"))) == (both.text, "'k'")


def test_an_unreadable_file_is_both_kinds_of_error(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        open_regular(tmp_path)
    error = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(error, UnreadableFile) and error.errno == errno.EISDIR
    assert error.values["file"] == error.filename == str(tmp_path)
    assert str(error) == f"{error.text} [environment.unreadable-file]"
