"""Every error for users has a code that ``docs/reference/errors.md`` explains."""

from __future__ import annotations

import ast
import errno
import pickle
import re
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


def codes_in(folder: Path) -> set[str]:
    """Texts of the source that have the form of a code and an area of one."""
    areas = {code.partition(".")[0] for code in CODES}
    return {
        node.value
        for path in folder.rglob("*.py")
        if path.name != "error_codes.py" and "tests" not in path.parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.fullmatch(r"[a-z]+\.[a-z]+(-[a-z0-9]+)*", node.value)
        and node.value.partition(".")[0] in areas
    }


def given_codes(folder: Path) -> set[str]:
    """What errors and problems are made with, where the source says it."""
    return {
        node.value.value
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.keyword) and node.arg == "code"
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }


def test_the_page_is_up_to_date() -> None:
    page = ROOT / "docs" / "reference" / "errors.md"
    assert page.read_text(encoding="utf-8") == reference(plugin_codes()), (
        "run: python -m mimo_core.errors.docgen > docs/reference/errors.md"
    )


def test_every_code_of_the_core_is_in_use_and_explained() -> None:
    used = codes_in(ROOT / "mimo_core") | codes_in(ROOT / "benchmarks")
    assert CODES.keys() <= used, sorted(CODES.keys() - used)
    given = given_codes(ROOT / "mimo_core") | given_codes(ROOT / "benchmarks")
    missing = given - CODES.keys() - {""}
    assert not missing, sorted(missing)


@pytest.mark.parametrize("plugin", plugin_codes())
def test_codes_of_a_plugin_begin_with_its_name(plugin: str) -> None:
    assert all(code.startswith(f"{plugin}.") for code in plugin_codes()[plugin])


def test_every_code_has_a_cause_and_a_remedy() -> None:
    for codes in (CODES, *plugin_codes().values()):
        for code, explanation in codes.items():
            assert CODE.fullmatch(code), code
            assert all(text.endswith(".") and "|" not in text for text in explanation), code


def test_a_code_of_another_library_is_no_code() -> None:
    class HTTPError(Exception):
        code = 404

    assert code_of(HTTPError(), "sample.undecodable") == "sample.undecodable"
    assert (
        code_of(MimoError("a"), "x.b") == "x.b" and code_of(MimoError("a", code="x.a"), "") == "x.a"
    )
    assert values_of(HTTPError()) == {} and values_of(MimoError("a", file="f")) == {"file": "f"}


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
