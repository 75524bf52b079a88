"""Pages, READMEs and commands that speak of the same thing say the same."""

from __future__ import annotations

from ..helpers.paths import ROOT

PAGES = [
    *ROOT.glob("docs/**/*.md"),
    *ROOT.glob("mimo_plugins/*/README.md"),
    *ROOT.glob("mimo_core/scaffold/templates/*/README.md.tmpl"),
]


def test_a_new_plugin_is_installed_by_one_command() -> None:
    printed = (ROOT / "mimo_core/cli/plugins.py").read_text(encoding="utf-8")
    assert "pip install -e '.[test]'" in printed
    for page in PAGES:
        assert "-e '.[dev]'" not in page.read_text(encoding="utf-8"), page


def test_no_page_promises_flops_in_the_plan() -> None:
    for page in PAGES:
        assert "FLOPs a position" not in page.read_text(encoding="utf-8"), page
