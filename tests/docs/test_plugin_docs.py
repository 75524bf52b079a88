"""``docs/plugins``: what the pages say is so."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import mimo_core
from mimo_core.plugins.docgen import deprecation_table
from mimo_core.plugins.source_reader import public
from mimo_core.plugins.versions import DEPRECATIONS, Deprecation

from ..helpers.paths import PLUGINS, ROOT
from ..unit.test_public_surface import MODULES
from .test_tutorial import blocks

FOLDER = ROOT / "docs" / "plugins"
PAGES = sorted(FOLDER.glob("*.md"))
HOW_TOS = [page for page in PAGES if page.name not in ("reference.md", "tutorial.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]*)(?:#[^)]*)?\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target


def test_links_into_the_reference_have_a_heading_there() -> None:
    headings = {
        re.sub(r"[^\w-]", "", heading.lower())
        for heading in re.findall(r"^#+ (.*)$", (FOLDER / "reference.md").read_text(), re.M)
    }
    pages = "".join(page.read_text() for page in PAGES)
    linked = set(re.findall(r"\]\((?:reference\.md)?#([^)]*)\)", pages))
    assert len(linked) > 8 and linked <= headings


@pytest.mark.parametrize("page", HOW_TOS, ids=lambda page: page.name)
def test_python_on_the_pages_can_be_read_and_imports_what_is_public(page: Path) -> None:
    names = {module: {one.name for one in public(module)} for module in MODULES}
    for block in blocks(page.read_text()):
        if block.language != "python":
            continue
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mimo_core"):
                where = f"{page.name}:{block.line}"
                assert {alias.name for alias in node.names} <= names[node.module or ""], where


def test_the_dataset_on_the_page_is_one_that_tests_train_with() -> None:
    (shown,) = [block.text for block in blocks((FOLDER / "dataset.md").read_text()) if block.title]
    assert shown == (PLUGINS / "words_plugin.py").read_text()


def test_what_leaves_is_told() -> None:
    page = (FOLDER / "versioning.md").read_text()
    (told,) = re.findall(r"test compares -->\n(.*?)\n<!-- end -->", page, re.S)
    assert told == deprecation_table(DEPRECATIONS)
    gone = Deprecation(what="hook old", since="1.2", instead="write new")
    assert "| hook old | 1.2 | write new |" in deprecation_table([gone])


def test_the_pages_are_of_this_contract() -> None:
    pages = "".join(page.read_text() for page in PAGES)
    stated = set(re.findall(r'mimo_contract = "(.*?)"', pages))
    assert stated == {mimo_core.CONTRACT}
    assert f"This is contract {mimo_core.CONTRACT}." in pages
