"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

NoPlugin = Annotated[
    list[str] | None, typer.Option("--no-plugin", metavar="NAME", help="Do not load this plugin.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
