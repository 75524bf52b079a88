"""Text from plugins, data, files and recipes is shown, and never acts on the terminal."""

from __future__ import annotations

import ast
import io
import unicodedata
from pathlib import Path

import attrs
import pytest
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mimo_core.cli import mimo as command
from mimo_core.errors import MimoError
from mimo_core.planning.plan import make_plan
from mimo_core.reporting.console import Answer, Screen
from mimo_core.reporting.header import run_header
from mimo_core.reporting.tables import positions_table
from mimo_core.utils.standard_streams import console, show

from ..helpers.paths import RECIPES, ROOT

HOSTILE = "a\x1b[2Jb\x9b1mc\x07d\re\u202ef\udcffg[bold]h[/nothing]i:smile:j"
CORE = ROOT / "mimo_core"


def safe(shown: str) -> bool:
    return not any(
        (unicodedata.category(one) in ("Cc", "Cs") and one not in "\n\t") or one == "\u202e"
        for one in shown
    )


def shown(*renderables: RenderableType) -> str:
    stream = io.StringIO()
    console(stream).print(*renderables)
    return stream.getvalue()


def table(cell: RenderableType) -> Table:
    made = Table(title="title")
    made.add_column("heading")
    made.add_row(cell)
    return made


@pytest.mark.parametrize(
    "renderable",
    [
        HOSTILE,
        Text(HOSTILE),
        table(HOSTILE),
        table(Text(HOSTILE)),
        Group(HOSTILE, Text(HOSTILE)),
        Panel("inside", title=Text(HOSTILE)),
        Columns([HOSTILE, Text(HOSTILE)]),
    ],
    ids=["text", "styled text", "cell", "styled cell", "group", "title", "columns"],
)
def test_a_console_escapes_control_characters(renderable: RenderableType) -> None:
    screen = shown(renderable)
    assert safe(screen)
    assert "\\x1b" in screen


@pytest.mark.parametrize("renderable", [HOSTILE, table(HOSTILE)], ids=["text", "cell"])
def test_a_string_is_shown_whole_and_is_no_markup(renderable: RenderableType) -> None:
    escaped = r"a\x1b[2Jb\x9b1mc\x07d\re\u202ef\udcffg[bold]h[/nothing]i:smile:j"
    assert escaped in shown(renderable)


def test_a_screen_escapes_all_that_a_run_shows() -> None:
    stream = io.StringIO()
    with Screen(stream, iterations=2, every=1) as screen:
        screen.say(HOSTILE)
        screen.evaluation(1, {HOSTILE: 0.5})
        screen.answers([Answer(key=HOSTILE, truth=HOSTILE, said=HOSTILE + "x")])
        screen.end({"logs": Path(HOSTILE)})
        screen.stopped(1, None, HOSTILE)
    assert safe(stream.getvalue())
    assert stream.getvalue().count("\\x1b[2J") >= 7


def test_lines_and_errors_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    show(MimoError(HOSTILE, code="a.b"))
    assert safe(capsys.readouterr().out)


def test_a_plan_escapes_keys_of_samples() -> None:
    plan = make_plan(RECIPES / "tiny.yaml")
    (one, *_) = plan.preview
    plan = attrs.evolve(plan, preview=(attrs.evolve(one, sample=HOSTILE),))
    screen = shown(positions_table(plan), run_header(plan))
    assert safe(screen) and "\\x1b[2J" in screen


@pytest.mark.parametrize(
    "words",
    [
        [HOSTILE[:20]],
        ["tiny.yaml", f"modules.vision.plugin={HOSTILE[:20]}"],
        ["tiny.yaml", f"data.options.folder={HOSTILE[:20]}"],
        ["tiny.yaml", f"modules.{HOSTILE[:20]}.plugin=radio"],
        ["tiny.yaml", f"tokenizer.file={HOSTILE[:20]}"],
    ],
)
def test_an_error_of_a_command_is_escaped(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(RECIPES / word) if word == "tiny.yaml" else word for word in words]
    monkeypatch.setattr("sys.argv", ["mimo", "plan", *words])
    with pytest.raises(SystemExit) as ended:
        command.main()
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert said.err and safe(said.out + said.err)


def test_all_that_a_person_reads_is_written_by_show_or_a_safe_console() -> None:
    """``print`` is for JSON, for logs of ranks and for constant text."""
    found = []
    for path in sorted([*CORE.glob("cli/*.py"), *CORE.glob("launch/*.py"), CORE / "api.py"]):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            text = ast.unparse(node)
            if node.func.id == "Console":
                found.append(f"{path.name}: {text}")
            if node.func.id == "print" and not isinstance(node.args[0], ast.Constant):
                found.append(f"{path.name}: {text}")
    allowed = ("print(json.dumps(", "print(f'{PART} ")
    assert [one for one in found if not one.partition(": ")[2].startswith(allowed)] == []
