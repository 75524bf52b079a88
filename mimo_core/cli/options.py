"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

NoPlugin = Annotated[
    list[str] | None, typer.Option("--no-plugin", metavar="NAME", help="Do not load this plugin.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def path_given(text: str) -> Path:
    """The path of an option or argument; every one of them is read by this.

    Raises:
        typer.BadParameter: it is empty, which ``Path`` would take for the working directory.
    """
    if not text.strip():
        raise typer.BadParameter("the path is empty; give one, such as . for this folder")
    return Path(text)
