"""``docs/plugins/tutorial.md``, word for word: its commands, its edits, its output.

Executed from wheels in an environment of its own; only what it downloads is there already.
"""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from ..helpers.overlay import Overlay, build_wheels
from ..helpers.paths import ROOT

PAGE = ROOT / "docs" / "plugins" / "tutorial.md"
SOURCES = [ROOT, *(ROOT / "mimo_plugins" / name for name in ("nemotron", "digits"))]


@attrs.frozen(kw_only=True)
class Block:
    """A fenced block of the page."""

    line: int
    language: str
    title: str | None
    text: str


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks in order."""
    fenced = r'^```(\w+)(?: title="(.*?)")?\n(.*?)^```$'
    for found in re.finditer(fenced, page, re.M | re.S):
        language, title, text = found.groups()
        line = page.count("\n", 0, found.start()) + 1
        yield Block(line=line, language=language, title=title, text=text)


def test_the_reader_of_blocks_sees_what_it_should() -> None:
    page = 'a\n```sh\nls\n```\n\n```diff title="x.py"\n a\n+b\n```\n'
    assert list(blocks(page)) == [
        Block(line=2, language="sh", title=None, text="ls\n"),
        Block(line=6, language="diff", title="x.py", text=" a\n+b\n"),
    ]


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Overlay:
    """Where the page's first command finds everything installed."""
    wheels = build_wheels(SOURCES, tmp_path_factory.mktemp("wheels"))
    made = Overlay.make(tmp_path_factory.mktemp("overlay"), list(wheels.values()))
    for program in ("pip", "pytest"):
        script = made.python.with_name(program)
        script.write_text(f'#!/bin/sh\nexec "{made.python}" -m {program} "$@"\n')
        script.chmod(0o755)
    made.python.with_name("ruff").symlink_to(Path(sysconfig.get_path("scripts")) / "ruff")
    return made


@pytest.mark.long
def test_the_tutorial_does_what_it_says(overlay: Overlay) -> None:
    reader = Reader(overlay)
    done = [reader.read(block) for block in blocks(PAGE.read_text(encoding="utf-8"))]
    assert len(done) > 15


class Reader:
    """Follows a page from its first block on, in one shell's folder."""

    def __init__(self, overlay: Overlay) -> None:
        self._python = overlay.python
        self._folder = overlay.work
        self._place = overlay.folder / "place"
        self._said = ""

    def read(self, block: Block) -> None:
        """Do what a block says.

        Raises:
            AssertionError: a command fails, an edit has no place, or output is not as it is shown.
        """
        match block.language:
            case "sh":
                self._said = self._run(block)
            case "text":
                said = _plain(self._said)
                lost = [line for line in block.text.splitlines() if _plain(line) not in said]
                assert not lost, f"{PAGE.name}:{block.line}: {lost} is not in\n{self._said}"
            case "diff":
                assert block.title
                self._edit(self._folder / block.title, block)
            case _:
                assert block.title, f"{PAGE.name}:{block.line}: what is this block?"
                (self._folder / block.title).write_text(block.text, encoding="utf-8")

    def _run(self, block: Block) -> str:
        """What one shell says, which begins where the one before it ended."""
        script = f'set -euo pipefail\n{block.text}\npwd > "{self._place}"\n'
        led = ("PYTHON", "MIMO_", "PYTEST_", "VIRTUAL_ENV")
        environ = {name: value for name, value in os.environ.items() if not name.startswith(led)}
        environ |= {
            "PATH": os.pathsep.join([str(self._python.parent), os.environ["PATH"]]),
            "COLUMNS": "120",
            # Nothing is downloaded. (pip's way to switch its build isolation off.)
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",
        }
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self._folder,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=1800,
        )
        assert done.returncode == 0, f"{PAGE.name}:{block.line}: {block.text}{done.stdout}"
        self._folder = Path(self._place.read_text().strip())
        return done.stdout

    def _edit(self, file: Path, block: Block) -> None:
        """The lines without their marks: those that are there, and what becomes of them."""
        lines = block.text.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] != "+")
        after = "".join(line[1:] for line in lines if line[0] != "-")
        text = file.read_text(encoding="utf-8")
        assert text.count(before) == 1, f"{PAGE.name}:{block.line}: no one place in {file.name}"
        file.write_text(text.replace(before, after), encoding="utf-8")


def _plain(text: str) -> str:
    """Without frames and widths of spaces, which follow from the width of the screen."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())
